//! The system accounts that servers run as: root starts them as their own users, anybody else as himself.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A user with its primary group, as the system's passwd and group files name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub group: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account this process runs as.
    pub fn current() -> Account {
        Account::of_uid(nix::unistd::geteuid())
    }

    fn of_uid(uid: nix::unistd::Uid) -> Account {
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let user = user.unwrap_or_else(|| panic!("user id {uid} has no entry in the passwd file"));
        Account::of_user(user)
    }

    fn of_user(user: nix::unistd::User) -> Account {
        let group = nix::unistd::Group::from_gid(user.gid).ok().flatten();
        let group = group.map_or_else(|| user.gid.to_string(), |group| group.name);
        Account {
            name: user.name,
            group,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }
    }

    /// Lets `command` run as this account. Does nothing when we are that user already, or are not root.
    pub fn apply(&self, command: &mut Command) {
        if is_root() && self.uid != 0 {
            command.uid(self.uid).gid(self.gid);
        }
    }
}

/// Whether this process may change users.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The account `name` when we are root (panics when there is none), otherwise our own.
pub fn account(name: &str) -> Account {
    if !is_root() {
        return Account::current();
    }
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Account::of_user(user),
        _ => panic!(
            "no user `{name}` on this machine; {}",
            crate::program::REMEDY
        ),
    }
}

/// The owner of mailboxes: `vmail` where that exists, else Debian's `mail`; our own account when we are not root.
pub fn vmail() -> Account {
    if !is_root() {
        return Account::current();
    }
    match nix::unistd::User::from_name("vmail") {
        Ok(Some(user)) => Account::of_user(user),
        _ => account("mail"),
    }
}
