//! The TLS settings of a client service.

use std::path::PathBuf;
use std::sync::Arc;

use config::{Config, ConfigError};
use tables::Tables;
use tls::{Choice, Digest, Identity, KeyError};

use super::level::Level;
use super::verify::Authorities;
use super::{Terms, Tls};

/// The parameters `smtp_tls_…` or `lmtp_tls_…`.
struct Reader<'a> {
    config: &'a Config,
    prog: &'static str,
}

impl Tls {
    /// `prog` is `smtp` or `lmtp`. `None`: TLS is not wanted by main.cf, nor by a policy table.
    pub fn of(
        config: &Config,
        tables: &Tables,
        prog: &'static str,
    ) -> Result<Option<Tls>, ConfigError> {
        let read = Reader { config, prog };
        let level = read.level()?;
        let policies = tables.open_list_lenient(&read.text("tls_policy_maps")?);
        let wrapper = config.bool(&read.name("tls_wrappermode"))?;
        let note_offer = config.bool(&read.name("tls_note_starttls_offer"))?;
        if level == Level::None && policies.is_empty() && !wrapper && !note_offer {
            return Ok(None);
        }
        let opportunistic = read.terms(false)?;
        let identity = read.identity(&opportunistic)?;
        Ok(Some(Tls {
            prog,
            level,
            policies,
            wrapper,
            verify_match: read.words("tls_verify_cert_match")?,
            secure_match: read.words("tls_secure_cert_match")?,
            fingerprints: read.fingerprints()?,
            digest: read.digest()?,
            mandatory: read.terms(true)?,
            opportunistic,
            authorities: Arc::new(Authorities::new(read.authorities()?)),
            identity,
            servername: read.text("tls_servername")?,
            loglevel: read.loglevel()?,
            note_offer,
            timeout: config.time(&read.name("starttls_timeout"))?,
        }))
    }
}

impl Reader<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.prog)
    }

    fn text(&self, what: &str) -> Result<String, ConfigError> {
        self.config.string(&self.name(what))
    }

    fn mistake(&self, name: &str, problem: String, remedy: &str) -> ConfigError {
        let value = self.config.string(name).unwrap_or_default();
        ConfigError::new(problem, remedy)
            .at(self.config.origin(name))
            .parameter(name)
            .value(&value)
    }

    /// The level, or what the parameters from before it say.
    fn level(&self) -> Result<Level, ConfigError> {
        let name = self.name("tls_security_level");
        let text = self.config.string(&name)?;
        let flag = |what: &str| self.config.bool(&format!("{}_{what}", self.prog));
        if text.trim().is_empty() {
            return Ok(match (flag("enforce_tls")?, flag("use_tls")?) {
                (true, _) if flag("tls_enforce_peername")? => Level::Verify,
                (true, _) => Level::Encrypt,
                (false, true) => Level::May,
                (false, false) => Level::None,
            });
        }
        let level = Level::of(text.trim()).ok_or_else(|| {
            let remedy = "use one of: none, may, encrypt, fingerprint, verify, secure, dane";
            self.mistake(&name, format!("unknown TLS level \"{text}\""), remedy)
        })?;
        if text.trim().eq_ignore_ascii_case("dane") {
            tracing::warn!(
                prog = self.prog,
                "{name} = dane: TLSA records are not asked for; TLS is used where it is offered, as with may"
            );
        }
        Ok(level)
    }

    fn terms(&self, mandatory: bool) -> Result<Terms, ConfigError> {
        let Choice {
            provider,
            versions,
            warnings,
        } = Choice::read(self.config, self.prog, mandatory)?;
        for warning in warnings {
            tracing::warn!(prog = self.prog, "{warning}");
        }
        Ok(Terms {
            provider: Arc::new(provider),
            versions,
        })
    }

    fn words(&self, what: &str) -> Result<Vec<String>, ConfigError> {
        let text = self.text(what)?;
        let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == ':');
        let words = words.filter(|word| !word.is_empty());
        Ok(words.map(str::to_ascii_lowercase).collect())
    }

    fn fingerprints(&self) -> Result<Vec<String>, ConfigError> {
        let text = self.text("tls_fingerprint_cert_match")?;
        let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == '|');
        Ok(words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn digest(&self) -> Result<Digest, ConfigError> {
        let name = self.name("tls_fingerprint_digest");
        Digest::of(self.config.string(&name)?.trim()).ok_or_else(|| {
            let remedy = "use one of: sha256, sha384, sha512, sha1, md5";
            self.mistake(&name, "unknown digest".into(), remedy)
        })
    }

    fn loglevel(&self) -> Result<i64, ConfigError> {
        let name = self.name("tls_loglevel");
        let text = self.config.string(&name)?;
        text.trim().parse().map_err(|_| {
            self.mistake(
                &name,
                "not a log level".into(),
                "write a number from 0 to 4",
            )
        })
    }

    /// The certificate to show to a server that asks for one.
    fn identity(&self, terms: &Terms) -> Result<Option<Identity>, ConfigError> {
        let blame = |name: &str, error: &KeyError| {
            let remedy = "name a PEM file that the server may read, with the certificate and its chain, or the key";
            self.mistake(name, error.to_string(), remedy)
        };
        let name = self.name("tls_chain_files");
        let files: Vec<PathBuf> = self
            .config
            .list(&name)?
            .into_iter()
            .map(PathBuf::from)
            .collect();
        if !files.is_empty() {
            let chains = tls::chains(&terms.provider, &files).map_err(|e| blame(&name, &e))?;
            return Ok(chains.into_iter().next());
        }
        for (certificate, key) in [
            ("tls_eccert_file", "tls_eckey_file"),
            ("tls_cert_file", "tls_key_file"),
        ] {
            let name = self.name(certificate);
            let certificate = self.config.string(&name)?;
            if certificate.is_empty() || certificate == "none" {
                continue;
            }
            let key = self.text(key)?;
            let key = if key.is_empty() {
                certificate.clone()
            } else {
                key
            };
            let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
            let pair = tls::pair(&terms.provider, &certificate, &key);
            return pair.map(Some).map_err(|error| blame(&name, &error));
        }
        Ok(None)
    }

    fn authorities(&self) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, ConfigError> {
        let remedy = "name a PEM file with the certificates of the authorities";
        let mut found = Vec::new();
        let name = self.name("tls_CAfile");
        let file = self.config.string(&name)?;
        if !file.is_empty() {
            let read = tls::certificates(&PathBuf::from(&file));
            found.extend(read.map_err(|e| self.mistake(&name, e.to_string(), remedy))?);
        }
        let name = self.name("tls_CApath");
        let folder = self.config.string(&name)?;
        if !folder.is_empty() {
            let entries = std::fs::read_dir(&folder).map_err(|error| {
                self.mistake(
                    &name,
                    format!("cannot read {folder}: {error}"),
                    "name a folder",
                )
            })?;
            for entry in entries.flatten() {
                // The folder may hold other things; what is no certificate is none.
                found.extend(tls::certificates(&entry.path()).unwrap_or_default());
            }
        }
        Ok(found)
    }
}
