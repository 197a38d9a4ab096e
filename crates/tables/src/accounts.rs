//! `unix:passwd.byname` and `unix:group.byname`: the machine's own accounts. They stand in the
//! default of `local_recipient_maps`.

use nix::unistd::{Group, User};

use crate::error::{ErrorKind, TableError};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accounts {
    Users,
    Groups,
}

impl Accounts {
    /// The table of that name.
    pub fn open(spec: &str, name: &str) -> Result<Accounts, TableError> {
        match name {
            "passwd.byname" => Ok(Accounts::Users),
            "group.byname" => Ok(Accounts::Groups),
            _ => Err(TableError::operator(
                spec,
                format!(
                    "unknown table: {spec} (there are unix:passwd.byname and unix:group.byname)"
                ),
            )),
        }
    }

    /// The account's line as in passwd(5) or group(5). It may come from a directory service, which can fail.
    pub fn lookup(self, spec: &str, key: &str) -> Result<Option<String>, TableError> {
        let failed = |error: nix::errno::Errno| {
            let text = format!("table {spec}: query error: {}", error.desc());
            TableError::new(ErrorKind::Environment, spec, text)
        };
        // No account has such a name, and C strings end there.
        if key.contains('\0') {
            return Ok(None);
        }
        match self {
            Accounts::Users => Ok(User::from_name(key).map_err(failed)?.map(|user| {
                format!(
                    "{}:{}:{}:{}:{}:{}:{}",
                    user.name,
                    user.passwd.to_string_lossy(),
                    user.uid,
                    user.gid,
                    user.gecos.to_string_lossy(),
                    user.dir.display(),
                    user.shell.display()
                )
            })),
            Accounts::Groups => Ok(Group::from_name(key).map_err(failed)?.map(|group| {
                format!(
                    "{}:{}:{}:{}",
                    group.name,
                    group.passwd.to_string_lossy(),
                    group.gid,
                    group.mem.join(",")
                )
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_everywhere() {
        let ask = |name: &str, key: &str| {
            let table = Accounts::open("unix:x", name).expect("the names below are right");
            table.lookup("unix:x", key).expect("accounts can be asked")
        };
        let root = ask("passwd.byname", "root").unwrap_or_default();
        assert!(root.starts_with("root:x:0:0:"), "{root}");
        let group = ask("group.byname", "root").unwrap_or_default();
        assert!(group.starts_with("root:x:0:"), "{group}");
        for key in ["root@localhost", "no-such-account", "a\0b", ""] {
            assert_eq!(ask("passwd.byname", key), None, "{key:?}");
        }
        assert!(Accounts::open("unix:nosuch", "nosuch").is_err());
    }
}
