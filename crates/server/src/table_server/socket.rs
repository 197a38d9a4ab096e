//! The table server's listening sockets: opened so that Postfix can reach them, never taken from a
//! server that lives, and taken away at the end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, chown, geteuid};
use tokio::net::{TcpListener, UnixListener};

use super::endpoint::Place;
use crate::listen::{bind_tcp, host_addresses};

/// An open listener.
pub(crate) enum Socket {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

impl Socket {
    /// Opens what `place` names. `owner`: who must reach a unix socket, Postfix' `mail_owner`.
    pub fn open(place: &Place, owner: &str) -> io::Result<Vec<Socket>> {
        match place {
            Place::Unix(path) => Ok(vec![open_unix(path, owner)?]),
            Place::Inet(host, port) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let addresses = host_addresses(bare);
                if addresses.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "unknown host"));
                }
                let open = |ip| bind_tcp(SocketAddr::new(ip, *port)).map(Socket::Tcp);
                addresses.into_iter().map(open).collect()
            }
        }
    }

    /// `inet:HOST:PORT` or `unix:PATH`, with the port that the system chose for port 0.
    pub fn shown(&self) -> String {
        match self {
            Socket::Unix(_, file) => format!("unix:{}", file.path.display()),
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("inet:{address}"),
                Err(error) => error.to_string(),
            },
        }
    }
}

/// Removes the socket at its end, unless another server has put its own there.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode);
        if ours {
            // Gone or not, the next server removes what is stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open_unix(path: &Path, owner: &str) -> io::Result<Socket> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    let file = SocketFile {
        path: path.to_owned(),
        inode,
    };
    // Postfix' daemons ask as `mail_owner`. Who is not root cannot give the socket to them, and leaves
    // it to the folder's mode who gets there, as Postfix does with its own sockets.
    let mut mode = 0o666;
    if geteuid().is_root() {
        let user = User::from_name(owner).map_err(io::Error::from)?;
        if let Some(user) = user {
            chown(path, Some(user.uid), Some(user.gid)).map_err(io::Error::from)?;
            mode = 0o660;
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Socket::Unix(listener, file))
}

/// Removes a socket on which nobody listens; anything else that is in the way stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_the_way = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !in_the_way.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket has this name",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        // Connected, or its queue is full.
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another server listens there",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> io::Result<Socket> {
        open_unix(path, "nobody")
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        let socket = open(&path).expect("the stale one is replaced");
        let refused = open(&path).err().expect("the live one is not");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists(), "it goes with its server");

        std::fs::write(&path, "precious").expect("a file");
        let refused = open(&path).err().expect("a file is left alone");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = open(&path).expect("a socket");
        std::fs::rename(&path, folder.path().join("moved")).expect("moved away");
        let _second = open(&path).expect("another socket");
        drop(first);
        assert!(path.exists());
    }
}
