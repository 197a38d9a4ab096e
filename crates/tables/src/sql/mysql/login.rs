//! The beginning of a session with MariaDB or MySQL: the greeting, TLS, and the proof of the password.

use super::super::connect::{self, Deadline};
use super::super::pool::{Login, Place};
use super::super::tls::{Verify, When};
use super::super::{Engine, wire::Wire};
use super::*;

impl Connection {
    /// Encrypts the open stream where the settings ask for it, and logs in. The error is the server's text, or
    /// says what to do.
    pub async fn login(
        wire: Wire,
        place: &Place,
        login: &Login,
        deadline: Deadline,
    ) -> Result<Connection, String> {
        let mut connection = Connection {
            wire,
            sequence: 0,
            status: 0,
            mode: None,
            output: Vec::new(),
        };
        let greeting = deadline
            .within("the greeting", connection.greeting())
            .await?;
        let mut connection = connection
            .encrypted(&greeting, place, login, deadline)
            .await?;
        deadline
            .within("login", connection.begin(&greeting, login))
            .await?;
        Ok(connection)
    }

    /// Logs in and makes the session what the settings ask for.
    async fn begin(&mut self, greeting: &Greeting, login: &Login) -> Result<(), String> {
        self.authenticate(greeting, login).await?;
        if !login.charset.is_empty() && login.charset != "utf8mb4" {
            self.set_charset(&login.charset).await?;
        }
        for statement in &login.init_commands {
            let failed = |text: &str| format!("init-command of the option file: {text}");
            self.run(statement.as_bytes(), false)
                .await
                .map_err(|error| failed(&text_of(error)))?;
        }
        Ok(())
    }

    async fn greeting(&mut self) -> Result<Greeting, String> {
        let size = self.packet().await.map_err(text_of)?;
        let greeting = self.wire.take(size);
        if greeting.first() == Some(&0xff) {
            return Err(text_of(error_of(greeting, true)));
        }
        Ok(Greeting::parse(greeting).ok_or("malformed greeting from the server")?)
    }

    /// The same connection, under TLS where it is to be.
    async fn encrypted(
        mut self,
        greeting: &Greeting,
        place: &Place,
        login: &Login,
        deadline: Deadline,
    ) -> Result<Connection, String> {
        let prefixed = |text: String| format!("TLS/SSL error: {text}");
        match login.tls.when {
            When::Never | When::Demanded => return Ok(self),
            When::Offered if !greeting.offers_tls => {
                tracing::warn!(
                    target: crate::ADVICE,
                    "mysql server {} offers no TLS: the connection is not encrypted, although the table's \
                     settings ask for it; with tls_verify_cert = yes it would be refused",
                    place.shown()
                );
                return Ok(self);
            }
            When::Always if !greeting.offers_tls => {
                return Err(prefixed(
                    "SSL is required, but the server does not support it; give the server a certificate \
                     (ssl_cert, ssl_key), or set tls_verify_cert = no"
                        .to_string(),
                ));
            }
            When::Offered | When::Always => {}
        }
        let request = login_head(CAPABILITIES | SSL);
        self.send_framed(request).await.map_err(text_of)?;
        let sequence = self.sequence.wrapping_add(1);
        let wire = connect::start_tls(self.wire, place, login, Engine::MySql, deadline)
            .await
            .map_err(prefixed)?;
        Ok(Connection {
            wire,
            sequence,
            ..self
        })
    }

    async fn authenticate(&mut self, greeting: &Greeting, login: &Login) -> Result<(), String> {
        let ssl = if self.wire.is_encrypted() { SSL } else { 0 };
        let mut packet = login_head(CAPABILITIES | ssl);
        push_c_string(&mut packet, &login.user);
        let plugin = match greeting.plugin.as_str() {
            "" => "mysql_native_password",
            plugin => plugin,
        };
        let proof = self
            .proof(plugin, login, &greeting.salt)
            .unwrap_or_default();
        packet.push(proof.len() as u8);
        packet.extend_from_slice(&proof);
        push_c_string(&mut packet, &login.dbname);
        push_c_string(&mut packet, plugin);
        self.send_framed(packet).await.map_err(text_of)?;
        self.finish_login(plugin, &greeting.salt, login).await
    }

    /// Whether a password may go as it is.
    fn is_private(&self) -> bool {
        self.wire.is_local() || self.wire.is_encrypted()
    }

    /// What proves the password; `None` for a plugin that we do not know.
    fn proof(&self, plugin: &str, login: &Login, salt: &[u8]) -> Option<Vec<u8>> {
        let verified = self.wire.is_encrypted() && login.tls.verify != Verify::Nothing;
        match plugin {
            "mysql_clear_password" if self.wire.is_local() || verified => {
                Some(auth::clear(&login.password))
            }
            "sha256_password" if self.is_private() => Some(auth::clear(&login.password)),
            _ => auth::proof(plugin, &login.password, salt),
        }
    }

    async fn finish_login(
        &mut self,
        plugin: &str,
        salt: &[u8],
        login: &Login,
    ) -> Result<(), String> {
        let (mut plugin, mut salt) = (plugin.to_string(), salt.to_vec());
        loop {
            let size = self.packet().await.map_err(text_of)?;
            let packet = self.wire.take(size).to_vec();
            let reply = match packet.split_first() {
                Some((0x00, _)) => {
                    self.status = ok_status(&packet);
                    return Ok(());
                }
                Some((0xff, _)) => return Err(text_of(error_of(&packet, true))),
                // Switch to another plugin.
                Some((0xfe, rest)) => {
                    let end = rest
                        .iter()
                        .position(|&byte| byte == 0)
                        .unwrap_or(rest.len());
                    plugin = String::from_utf8_lossy(&rest[..end]).into_owned();
                    salt = rest.get(end + 1..).unwrap_or_default().to_vec();
                    self.proof(&plugin, login, &salt)
                        .ok_or_else(|| auth::unknown_plugin(&plugin))?
                }
                // caching_sha2_password: 3 is success, 4 asks for the password itself.
                Some((0x01, [3])) => continue,
                Some((0x01, [4])) if self.is_private() => auth::clear(&login.password),
                Some((0x01, [4])) => vec![auth::KEY_WANTED],
                Some((0x01, key)) if key.starts_with(b"-----BEGIN") => {
                    auth::encrypted(&login.password, &salt, key).map_err(|text| {
                        format!("Authentication plugin '{plugin}' reported error: {text}")
                    })?
                }
                _ => return Err("malformed reply to the login".to_string()),
            };
            let mut packet = vec![0; 4];
            packet.extend_from_slice(&reply);
            self.send_framed(packet).await.map_err(text_of)?;
        }
    }
}

/// Room for the header, then the part of the login that is also the request for TLS.
fn login_head(capabilities: u32) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&capabilities.to_le_bytes());
    packet.extend_from_slice(&(MAX_PACKET as u32 + 1).to_le_bytes());
    packet.push(UTF8MB4_GENERAL_CI);
    packet.extend_from_slice(&[0; 23]);
    packet
}

pub(super) struct Greeting {
    salt: Vec<u8>,
    plugin: String,
    offers_tls: bool,
}

impl Greeting {
    /// Protocol version 10.
    pub fn parse(packet: &[u8]) -> Option<Greeting> {
        let (10, rest) = (*packet.first()?, &packet[1..]) else {
            return None;
        };
        let version_end = rest.iter().position(|&byte| byte == 0)?;
        let rest = rest.get(version_end + 1 + 4..)?;
        let mut salt = rest.get(..8)?.to_vec();
        let offers_tls = u32::from(u16_at(rest, 9)) & SSL != 0;
        // Filler 1, capabilities 2, charset 1, status 2, capabilities 2, salt length 1, reserved 10.
        let salt_length = usize::from(*rest.get(8 + 8)?);
        let rest = rest.get(8 + 19..)?;
        let second = salt_length.saturating_sub(8).max(13).min(rest.len());
        salt.extend_from_slice(&rest[..second]);
        while salt.len() > 20 {
            salt.pop();
        }
        let plugin = &rest[second..];
        let end = plugin
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(plugin.len());
        Some(Greeting {
            salt,
            plugin: String::from_utf8_lossy(&plugin[..end]).into_owned(),
            offers_tls,
        })
    }
}

fn push_c_string(packet: &mut Vec<u8>, text: &str) {
    packet.extend(text.bytes().filter(|&byte| byte != 0));
    packet.push(0);
}
