//! Acting with a mailbox owner's rights, one thread at a time.
//!
//! Linux keeps a user and a group id for file access per thread (setfsuid(2), setfsgid(2)). While the
//! user id is not root's, the kernel also withholds the capabilities that override file modes.

use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};

/// The owner of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// The rights are the owner's until this is dropped, which also happens in a panic.
#[derive(Debug)]
pub struct Borrowed {
    back: Option<(Uid, Gid)>,
}

impl Owner {
    /// Gives the current thread the owner's rights. Fails with a text when that is impossible: only root
    /// can become another user.
    pub fn borrow(self) -> Result<Borrowed, String> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let (own_uid, own_gid) = (geteuid(), getegid());
        if own_uid == uid && own_gid == gid {
            return Ok(Borrowed { back: None });
        }
        if !own_uid.is_root() {
            return Err(format!(
                "the mailbox belongs to uid {uid} gid {gid}, but the mail server runs as uid {own_uid} gid {own_gid}, not as root"
            ));
        }
        let borrowed = Borrowed {
            back: Some((own_uid, own_gid)),
        };
        setfsgid(gid);
        setfsuid(uid);
        // Neither call reports failure; a second one returns what is in force.
        if setfsgid(gid) != gid || setfsuid(uid) != uid {
            return Err(format!("cannot take the rights of uid {uid} gid {gid}"));
        }
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.back {
            setfsuid(uid);
            setfsgid(gid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn own_rights_are_always_there() {
        let own = Owner {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        };
        assert!(own.borrow().unwrap().back.is_none());
    }

    #[test]
    fn rights_come_back_after_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let other = Owner {
            uid: 65_533,
            gid: 65_532,
        };
        if !geteuid().is_root() {
            assert!(other.borrow().unwrap_err().contains("not as root"));
            return;
        }
        let panicked = std::panic::catch_unwind(|| {
            let _rights = other.borrow().unwrap();
            assert!(
                std::fs::write(dir.path().join("x"), "").is_err(),
                "others may not write here"
            );
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        std::fs::write(dir.path().join("y"), "").unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("y")).unwrap().uid(), 0);
    }
}
