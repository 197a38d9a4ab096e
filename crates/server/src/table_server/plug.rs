//! What to change in main.cf so that a real Postfix asks the table server, and how to go back: the
//! lists of tables move to `postroom_tables_NAME`, and a `socketmap:` takes their place.

use std::fmt::Write;
use std::path::PathBuf;

use config::{Config, ConfigError};
use tables::{TYPES, split_specs};

use super::endpoint::{Endpoint, Protocol};
use super::parameters::{self, LIST_PREFIX, is_remote};

/// The changes, in the order in which they are to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// `postconf -e NAME = VALUE`.
    pub set: Vec<(String, String)>,
    /// The settings to go back to.
    pub back: Vec<(String, String)>,
    /// Parameters that are no longer needed then.
    pub remove: Vec<String>,
    /// What is left as it is, and why.
    pub notes: Vec<String>,
}

/// What the configuration as it stands needs. Nothing is changed.
pub fn plan(config: &Config, endpoints: &[Endpoint]) -> Result<Plan, ConfigError> {
    let mut plan = Plan {
        set: Vec::new(),
        back: Vec::new(),
        remove: Vec::new(),
        notes: Vec::new(),
    };
    let queue = PathBuf::from(config.string("queue_directory")?);
    let socketmap = endpoints
        .iter()
        .find(|endpoint| endpoint.protocol == Protocol::Socketmap)
        .map(|endpoint| endpoint.table_type(&queue));
    for name in parameters::names() {
        let Some(raw) = config.raw(name) else {
            continue;
        };
        let moved = format!("{LIST_PREFIX}{name}");
        if let Some(list) = config.raw(&moved) {
            plan.unplug(name, raw, &moved, list);
            continue;
        }
        let expanded = split_specs(&config.string(name)?);
        if !expanded.iter().any(|element| sql_inside(element)) {
            continue;
        }
        match (replacement(name, raw, &expanded), &socketmap) {
            (Ok((list, kept)), Some(socketmap)) => {
                let mut elements = kept;
                elements.push(format!("{socketmap}:{name}"));
                plan.set.push((moved.clone(), list));
                plan.set.push((name.to_owned(), elements.join(", ")));
                plan.back.push((name.to_owned(), raw.to_owned()));
                plan.remove.push(moved);
            }
            (Ok(_), None) => plan.notes.push(format!(
                "{name}: no socketmap listener in postroom_tables_listen"
            )),
            (Err(reason), _) => plan.notes.push(format!("{name} stays as it is: {reason}")),
        }
    }
    plan.note_others(config);
    Ok(plan)
}

impl Plan {
    /// A parameter that is plugged in already.
    fn unplug(&mut self, name: &str, raw: &str, moved: &str, list: &str) {
        let back: Vec<String> = split_specs(raw)
            .into_iter()
            .map(|element| match is_remote(&element) {
                true => list.to_owned(),
                false => element,
            })
            .collect();
        self.back.push((name.to_owned(), back.join(", ")));
        self.remove.push(moved.to_owned());
        self.notes
            .push(format!("{name} has its tables in {moved} already"));
    }

    fn note_others(&mut self, config: &Config) {
        for name in config.names() {
            let ours = name.starts_with(LIST_PREFIX) || parameters::find(name).is_some();
            let Some(raw) = config.raw(name).filter(|_| !ours) else {
                continue;
            };
            if split_specs(raw).iter().any(|element| sql_inside(element)) {
                self.notes.push(format!(
                    "{name} stays as it is; postroom_tables_NAME = TABLE serves a table of it under a \
                     NAME of your choice, asked for exactly the key that Postfix sends"
                ));
            }
        }
    }

    /// Lines for a shell; `dir` is given to postconf where it is not Postfix' own.
    pub fn script(&self, dir: Option<&str>) -> String {
        let postconf = match dir {
            Some(dir) => format!("postconf -c {}", quoted(dir)),
            None => "postconf".to_owned(),
        };
        let mut text = String::new();
        // Writing to a String does not fail.
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        if self.set.is_empty() {
            text.push_str("# nothing to plug in\n");
        } else {
            text.push_str("# start `postroom tables serve`, then:\n");
        }
        for (name, value) in &self.set {
            let _ = writeln!(
                text,
                "{postconf} -e {}",
                quoted(&format!("{name} = {value}"))
            );
        }
        if !self.set.is_empty() {
            text.push_str("# and `postfix reload`\n");
        }
        if !self.back.is_empty() {
            text.push_str("\n# to go back:\n");
        }
        for (name, value) in &self.back {
            let _ = writeln!(
                text,
                "# {postconf} -e {}",
                quoted(&format!("{name} = {value}"))
            );
        }
        if !self.remove.is_empty() {
            let _ = writeln!(text, "# {postconf} -X {}", self.remove.join(" "));
        }
        text
    }
}

/// The list to serve, and the elements that stay in the parameter; or why neither can be.
fn replacement(
    name: &str,
    raw: &str,
    expanded: &[String],
) -> Result<(String, Vec<String>), String> {
    if expanded.iter().any(|element| is_remote(element)) {
        return Err("it has a socketmap: or tcp: table".into());
    }
    let unproxied = |element: &String| {
        let plain = element.strip_prefix("proxy:");
        // proxy_read_maps will not have the table any more once the parameter has lost it.
        plain.unwrap_or(element).to_owned()
    };
    if parameters::is_list_of_names(name) {
        if expanded.iter().any(|element| element.starts_with('!')) {
            return Err("elements with ! depend on the order of the list".into());
        }
        let raw = split_specs(raw);
        let (tables, names): (Vec<_>, Vec<_>) = raw
            .into_iter()
            .partition(|element| parameters::sql(element).is_some());
        if tables.is_empty() {
            return Err("its database tables are named in another parameter".into());
        }
        let tables: Vec<String> = tables.iter().map(unproxied).collect();
        return Ok((tables.join(", "), names));
    }
    // Postfix looks up all forms of an address in the whole list before the next form, so the list
    // must stay together.
    for element in expanded {
        let plain = element.strip_prefix("proxy:").unwrap_or(element);
        let kind = plain.split(':').next().unwrap_or_default();
        if !TYPES.contains(&kind) {
            return Err(format!("Postroom has no tables of the type {kind}:"));
        }
    }
    let tables: Vec<String> = split_specs(raw).iter().map(unproxied).collect();
    Ok((tables.join(", "), Vec::new()))
}

/// The element is a database table, or has one inside (unionmap:{…}).
fn sql_inside(element: &str) -> bool {
    let element = element.trim_start_matches('!');
    parameters::sql(element).is_some()
        || element
            .split_once(":{")
            .and_then(|(_, inside)| inside.strip_suffix('}'))
            .is_some_and(|inside| split_specs(inside).iter().any(|spec| sql_inside(spec)))
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(main_cf: &str) -> Plan {
        let config = Config::from_text(main_cf, "").expect("a configuration");
        let endpoints = Endpoint::list("unix:private/postroom", &config).expect("a listener");
        plan(&config, &endpoints).expect("a plan")
    }

    #[test]
    fn lists_move_whole_and_come_back() {
        let plan = planned(
            "virtual_alias_maps = proxy:mysql:/a.cf, hash:/etc/x mysql:/b.cf
mydestination = $myhostname, mysql:/d.cf, localhost
relay_domains = !bad.example, mysql:/r.cf
transport_maps = hash:/etc/postfix/transport
virtual_mailbox_maps = ldap:/l.cf, mysql:/u.cf
canonical_maps = $other
other = mysql:/it's.cf
smtpd_client_restrictions = check_client_access mysql:/c.cf
",
        );
        let set: Vec<String> = plan.set.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        assert_eq!(
            set,
            [
                "postroom_tables_canonical_maps = $other",
                "canonical_maps = socketmap:unix:private/postroom:canonical_maps",
                "postroom_tables_mydestination = mysql:/d.cf",
                "mydestination = $myhostname, localhost, socketmap:unix:private/postroom:mydestination",
                "postroom_tables_virtual_alias_maps = mysql:/a.cf, hash:/etc/x, mysql:/b.cf",
                "virtual_alias_maps = socketmap:unix:private/postroom:virtual_alias_maps",
            ]
        );
        let notes = plan.notes.join("\n");
        for note in [
            "relay_domains stays as it is: elements with !",
            "virtual_mailbox_maps stays as it is: Postroom has no tables of the type ldap:",
            "smtpd_client_restrictions stays as it is;",
        ] {
            assert!(notes.contains(note), "{note}\n{notes}");
        }
        let script = plan.script(Some("/my conf"));
        assert!(script.contains(
            "\npostconf -c '/my conf' -e 'mydestination = $myhostname, localhost, socketmap:"
        ));
        assert!(script.contains(
            "\n# postconf -c '/my conf' -e 'virtual_alias_maps = proxy:mysql:/a.cf, hash:/etc/x mysql:/b.cf'\n"
        ));
        assert!(script.ends_with(
            "# postconf -c '/my conf' -X postroom_tables_canonical_maps postroom_tables_mydestination \
             postroom_tables_virtual_alias_maps\n"
        ));
    }

    #[test]
    fn a_quote_does_not_end_the_word() {
        assert_eq!(quoted("a'b"), r"'a'\''b'");
    }

    #[test]
    fn what_is_plugged_in_is_told_how_to_go_back() {
        let plan = planned(
            "virtual_alias_maps = socketmap:unix:private/postroom:virtual_alias_maps
postroom_tables_virtual_alias_maps = mysql:/a.cf, mysql:/b.cf
",
        );
        assert_eq!(plan.set, []);
        let back = (
            "virtual_alias_maps".to_owned(),
            "mysql:/a.cf, mysql:/b.cf".to_owned(),
        );
        assert_eq!(plan.back, [back]);
        assert_eq!(plan.remove, ["postroom_tables_virtual_alias_maps"]);
    }
}
