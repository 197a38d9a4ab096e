//! Certificates made by `openssl`, and an SMTP client with TLS that is not ours: Python's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{run, run_with_input};
use crate::{TempDir, require};

/// A folder of keys and certificates, valid for ten years.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates::new()
    }
}

impl Certificates {
    pub fn new() -> Certificates {
        let certificates = Certificates {
            dir: TempDir::new(),
        };
        // Servers that are not root must find their keys, too.
        crate::tempdir::set_mode(certificates.dir.path(), 0o755);
        certificates
    }

    /// `NAME.pem`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(&format!("{name}.pem"))
    }

    /// `NAME.key`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(&format!("{name}.key"))
    }

    /// Both, as `openssl` and Python want a client's.
    pub fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.certificate(name), self.key(name))
    }

    /// A certificate that has signed itself. `algorithm` is `rsa:2048`, `ed25519` or a curve such as `prime256v1`.
    pub fn self_signed(&self, name: &str, algorithm: &str, subject: &str) {
        let mut command = self.request(name, algorithm, subject);
        command.args(["-x509", "-days", "3650", "-out"]);
        run(command.arg(self.certificate(name)));
    }

    /// A certificate signed by `authority`, which is in this folder.
    pub fn signed(&self, name: &str, algorithm: &str, subject: &str, authority: &str) {
        self.signed_for(name, algorithm, subject, authority, &[]);
    }

    /// The same with these host names as subject alternative names.
    pub fn signed_for(
        &self,
        name: &str,
        algorithm: &str,
        subject: &str,
        authority: &str,
        hosts: &[&str],
    ) {
        let request = self.dir.join(&format!("{name}.csr"));
        run(self
            .request(name, algorithm, subject)
            .arg("-out")
            .arg(&request));
        let hosts: Vec<String> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        let mut extensions = "keyUsage = digitalSignature\n".to_owned();
        if !hosts.is_empty() {
            extensions += &format!("subjectAltName = {}\n", hosts.join(","));
        }
        let extensions = self.dir.write("extensions", extensions);
        let mut command = Command::new(require("openssl"));
        command.args(["x509", "-req", "-days", "3650", "-CAcreateserial", "-in"]);
        command.arg(&request).arg("-extfile").arg(extensions);
        command.arg("-CA").arg(self.certificate(authority));
        command.arg("-CAkey").arg(self.key(authority));
        run(command.arg("-out").arg(self.certificate(name)));
    }

    /// The SHA-256 fingerprint as Postfix's tables have it.
    pub fn fingerprint(&self, name: &str) -> String {
        let mut command = Command::new(require("openssl"));
        command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
        let output = run(command.arg(self.certificate(name)));
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text
            .trim()
            .split_once('=')
            .map(|(_, digits)| digits.to_owned());
        found.unwrap_or_else(|| panic!("openssl x509 -fingerprint printed {text:?}"))
    }

    fn request(&self, name: &str, algorithm: &str, subject: &str) -> Command {
        let mut command = Command::new(require("openssl"));
        command.args(["req", "-nodes", "-subj", subject, "-newkey"]);
        match algorithm {
            "ed25519" => command.arg(algorithm),
            rsa if rsa.starts_with("rsa") => command.arg(rsa),
            curve => command.args(["ec", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")]),
        };
        command.arg("-keyout").arg(self.key(name));
        command
    }
}

/// How [`talk`] connects, and what it says.
#[derive(Clone, Debug, Default)]
pub struct Dialogue {
    pub port: u16,
    /// TLS before the greeting.
    pub wrapped: bool,
    /// The client's certificate and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// TLS 1.2 at most.
    pub tls12: bool,
    /// The host name to ask for.
    pub server_name: Option<String>,
    /// Each is sent with CR LF and answered by one reply; `@TLS` stands for the handshake, whose
    /// answer is `(encrypted)`, or `(failed)` and the end; `@WAIT` sends nothing and waits for a reply.
    pub lines: Vec<String>,
}

/// The replies to each dialogue, the greeting first; their lines are joined by `\n`. `(closed)` where the server has ended it.
pub fn talk(dialogues: &[Dialogue]) -> Vec<Vec<String>> {
    let path = |path: &Path| path.display().to_string();
    let spoken: Vec<serde_json::Value> = dialogues
        .iter()
        .map(|dialogue| {
            serde_json::json!({
                "port": dialogue.port,
                "wrapped": dialogue.wrapped,
                "certificate": dialogue.certificate.as_ref().map(|(cert, key)| [path(cert), path(key)]),
                "tls12": dialogue.tls12,
                "server_name": dialogue.server_name,
                "lines": dialogue.lines,
            })
        })
        .collect();
    let mut command = Command::new(require("python3"));
    let input = serde_json::Value::from(spoken).to_string();
    let output = run_with_input(command.args(["-c", CLIENT]), input.as_bytes());
    if !output.status.success() {
        panic!(
            "the TLS client: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

const CLIENT: &str = r#"
import json, socket, ssl, sys

class Talk:
    def __init__(self, d):
        self.d, self.replies = d, []
        self.stream = socket.create_connection(("127.0.0.1", d["port"]))
        self.stream.settimeout(60)

    def encrypt(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.d["tls12"]:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if self.d["certificate"]:
            context.load_cert_chain(*self.d["certificate"])
        self.stream = context.wrap_socket(self.stream, server_hostname=self.d["server_name"])
        self.file = self.stream.makefile("rb")

    def reply(self):
        lines = []
        while True:
            line = self.file.readline()
            # A TLS alert in the clear is the end of it, too.
            if not line or not line[:3].isdigit():
                return "(closed)"
            lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def run(self):
        try:
            if self.d["wrapped"]:
                self.encrypt()
            self.file = self.stream.makefile("rb")
            self.replies.append(self.reply())
            for line in self.d["lines"]:
                if line == "@TLS":
                    try:
                        self.encrypt()
                        self.replies.append("(encrypted)")
                        continue
                    except OSError:
                        self.replies.append("(failed)")
                        return
                if line == "@WAIT":
                    self.replies.append(self.reply())
                    continue
                self.stream.sendall(line.encode() + b"\r\n")
                self.replies.append(self.reply())
        except OSError:
            self.replies.append("(closed)")

out = []
for d in json.load(sys.stdin):
    talk = Talk(d)
    talk.run()
    try:
        talk.stream.close()
    except OSError:
        pass
    replies = talk.replies
    # What comes behind the end depends on who closes first.
    out.append(replies[:replies.index("(closed)") + 1] if "(closed)" in replies else replies)
json.dump(out, sys.stdout)
"#;
