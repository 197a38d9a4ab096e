//! `option_file` and `option_group` of mysql_table(5): the `[client]` section of a my.cnf.

use crate::error::TableError;
use crate::parameters::Parameters;

/// What we take from an option file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OptionFile {
    pub user: Option<String>,
    pub socket: Option<String>,
    pub port: Option<u16>,
}

impl OptionFile {
    /// The file that the table names; nothing when it names none. Like the client library, an
    /// unreadable file is passed over.
    pub fn for_table(parameters: &Parameters) -> Result<OptionFile, TableError> {
        let path = parameters.text("option_file", "", 0)?;
        let group = parameters.text("option_group", "client", 0)?;
        if path.is_empty() {
            return Ok(OptionFile::default());
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(OptionFile::parse(
            &text,
            if group.is_empty() { "client" } else { &group },
        ))
    }

    /// The password is left out: Postfix hands an empty one to the library, which then counts.
    fn parse(text: &str, group: &str) -> OptionFile {
        let mut found = OptionFile::default();
        let mut ours = false;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                ours = name.trim() == group;
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|_| ours) else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']).to_string();
            match name.trim() {
                "user" => found.user = Some(value),
                "socket" => found.socket = Some(value),
                "port" => found.port = value.parse().ok(),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_group_counts() {
        let file = OptionFile::parse(
            "# c\n[client]\nuser = \"u\"\nport=3307\n[other]\nsocket=/x\n",
            "client",
        );
        let expected = OptionFile {
            user: Some("u".into()),
            socket: None,
            port: Some(3307),
        };
        assert_eq!(file, expected);
    }
}
