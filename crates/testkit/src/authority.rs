//! A private certificate authority, made with the `openssl` program.

use std::path::PathBuf;
use std::process::Command;

use crate::process::run;
use crate::{TempDir, require, tempdir};

/// A CA with its own folder; certificates are PEM files that everybody may read.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let authority = Authority {
            dir: TempDir::new(),
        };
        let ca = authority.files("ca");
        authority.openssl(
            &["req", "-x509", "-days", "30", "-subj", "/CN=a private CA"],
            &ca,
        );
        authority
    }

    /// The CA's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.files("ca").cert
    }

    /// The same with its key: a self-signed certificate, should a server have it.
    pub fn self_signed(&self) -> Certificate {
        self.files("ca")
    }

    /// The CA's certificate in a folder under its hashed name, as `openssl rehash` makes it.
    pub fn ca_folder(&self) -> PathBuf {
        let folder = self.dir.join("hashed");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        tempdir::set_mode(&folder, 0o755);
        std::fs::copy(self.ca(), folder.join("ca.pem")).expect("the folder is ours");
        run(Command::new(require("openssl")).arg("rehash").arg(&folder));
        folder
    }

    /// A certificate of this CA for `common_name`, with `names` (`DNS:…,IP:…`) as alternative names. Without any
    /// it is of version 1, as the older instructions for private CAs make them.
    pub fn certificate(&self, common_name: &str, names: &str) -> Certificate {
        let made = self.files(&common_name.replace(['/', '*'], "_"));
        let request = made.cert.with_extension("csr");
        let subject = format!("/CN={common_name}");
        let asked = Certificate {
            cert: request.clone(),
            key: made.key.clone(),
        };
        self.openssl(&["req", "-subj", &subject], &asked);
        let mut command = Command::new(require("openssl"));
        command
            .args(["x509", "-req", "-days", "30", "-CAcreateserial", "-in"])
            .arg(request);
        command.arg("-CA").arg(self.ca());
        command.arg("-CAkey").arg(self.files("ca").key);
        command.arg("-out").arg(&made.cert);
        if !names.is_empty() {
            let extensions = self
                .dir
                .write("extensions", format!("subjectAltName={names}\n"));
            command.arg("-extfile").arg(extensions);
        }
        run(&mut command);
        made
    }

    fn files(&self, name: &str) -> Certificate {
        Certificate {
            cert: self.dir.join(&format!("{name}.pem")),
            key: self.dir.join(&format!("{name}.key")),
        }
    }

    /// Runs a subcommand that makes a new key (`-keyout`) and something with it (`-out`).
    fn openssl(&self, arguments: &[&str], out: &Certificate) {
        let mut command = Command::new(require("openssl"));
        command.args(arguments).args(["-newkey", "ec", "-nodes"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.arg("-keyout").arg(&out.key);
        command.arg("-out").arg(&out.cert);
        run(&mut command);
        tempdir::set_mode(&out.key, 0o644);
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
