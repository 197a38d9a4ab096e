//! The TLS settings of a service, from main.cf and its `-o` settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Config, ConfigError};
use smtp::server::TlsLevel;
use tables::Tables;

use ::tls::{self as keys, Choice, Digest, Identity, KeyError, Remembered};

use super::{Tls, trusted_by};

/// What TLS means for one service.
pub(crate) struct Service {
    pub level: TlsLevel,
    /// `smtpd_tls_wrappermode`: TLS before the greeting.
    pub wrapper: bool,
    /// `None`: no TLS, or no certificate to have it with.
    pub tls: Option<Tls>,
    /// Files that were read, to be watched.
    pub files: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

/// Mistakes of one service.
type Problems = Vec<ConfigError>;

/// Reads the settings of the service that `config` is for.
pub(crate) fn service(config: &Config, tables: &Tables) -> Result<Service, Problems> {
    let mut warnings = Vec::new();
    let level = level(config, &mut warnings).map_err(|error| vec![error])?;
    let wrapper = config
        .bool("smtpd_tls_wrappermode")
        .map_err(|error| vec![error])?;
    let mut service = Service {
        level,
        wrapper,
        tls: None,
        files: Vec::new(),
        warnings,
    };
    if level == TlsLevel::None && !wrapper {
        return Ok(service);
    }
    service.tls = build(config, tables, &mut service)?;
    if service.tls.is_none() {
        service.warnings.push(
            "TLS is asked for, and there is no certificate: set smtpd_tls_cert_file and \
             smtpd_tls_key_file; until then STARTTLS is answered 454"
                .into(),
        );
    }
    Ok(service)
}

fn level(config: &Config, warnings: &mut Vec<String>) -> Result<TlsLevel, ConfigError> {
    let name = "smtpd_tls_security_level";
    let text = config.string(name)?;
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "" if config.bool("smtpd_enforce_tls")? => TlsLevel::Encrypt,
        "" if config.bool("smtpd_use_tls")? => TlsLevel::May,
        "" | "none" => TlsLevel::None,
        "may" => TlsLevel::May,
        "encrypt" => TlsLevel::Encrypt,
        "dane" | "dane-only" | "fingerprint" | "verify" | "secure" => {
            warnings.push(format!(
                "{name} = {text} is a level for clients; encrypt is used in its place"
            ));
            TlsLevel::Encrypt
        }
        _ => {
            return Err(
                ConfigError::new("unknown TLS level", "use one of: none, may, encrypt")
                    .at(config.origin(name))
                    .parameter(name)
                    .value(&text),
            );
        }
    })
}

fn build(config: &Config, tables: &Tables, service: &mut Service) -> Result<Option<Tls>, Problems> {
    let one = |error: ConfigError| vec![error];
    let mandatory = service.wrapper || service.level == TlsLevel::Encrypt;
    let choice = Choice::read(config, "smtpd", mandatory).map_err(one)?;
    service.warnings.extend(choice.warnings);
    let provider = Arc::new(choice.provider);
    let identities = identities(config, &provider, service)?;
    if identities.is_empty() {
        return Ok(None);
    }
    let required = config.bool("smtpd_tls_req_ccert").map_err(one)?;
    if required && !mandatory {
        service.warnings.push(
            "smtpd_tls_req_ccert: client certificates cannot be required where TLS is not".into(),
        );
    }
    let require = required && mandatory;
    let ask = require || config.bool("smtpd_tls_ask_ccert").map_err(one)?;
    let authorities = match ask {
        true => authorities(config, &mut service.files).map_err(one)?,
        false => Vec::new(),
    };
    let sni_specs = config.string("tls_server_sni_maps").map_err(one)?;
    let tls = Tls {
        versions: choice.versions,
        prefer_own_ciphers: config.bool("tls_preempt_cipherlist").map_err(one)?,
        identities,
        sni: tables.open_list_lenient(&sni_specs),
        sni_identities: Remembered::default(),
        ask,
        require,
        trusted: trusted_by(&provider, authorities),
        digest: digest(config).map_err(one)?,
        loglevel: loglevel(config).map_err(one)?,
        timeout: config.time("smtpd_starttls_timeout").map_err(one)?,
        provider,
    };
    check_sni(config, &tls, &mut service.files)?;
    Ok(Some(tls))
}

/// `smtpd_tls_chain_files`, or the older parameters, one pair for each kind of key.
fn identities(
    config: &Config,
    provider: &rustls::crypto::CryptoProvider,
    service: &mut Service,
) -> Result<Vec<Identity>, Problems> {
    let one = |error: ConfigError| vec![error];
    let name = "smtpd_tls_chain_files";
    let files: Vec<PathBuf> = config
        .list(name)
        .map_err(one)?
        .into_iter()
        .map(PathBuf::from)
        .collect();
    if !files.is_empty() {
        service.files.extend(files.iter().cloned());
        return keys::chains(provider, &files).map_err(|error| one(at(config, name, &error)));
    }
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for (certificate, key) in [
        ("smtpd_tls_eccert_file", "smtpd_tls_eckey_file"),
        ("smtpd_tls_cert_file", "smtpd_tls_key_file"),
    ] {
        let (cert_file, key_file) = (
            config.string(certificate).map_err(one)?,
            config.string(key).map_err(one)?,
        );
        if cert_file.is_empty() || cert_file == "none" {
            continue;
        }
        // As in Postfix, a certificate file may hold its key, too.
        let key_file = match key_file.is_empty() {
            true => cert_file.clone(),
            false => key_file,
        };
        let (cert_file, key_file) = (PathBuf::from(cert_file), PathBuf::from(key_file));
        match keys::pair(provider, &cert_file, &key_file) {
            Ok(identity) => found.push(identity),
            Err(error) => problems.push(at(
                config,
                blamed(&error, &key_file, certificate, key),
                &error,
            )),
        }
        service.files.extend([cert_file, key_file]);
    }
    if !config
        .string("smtpd_tls_dcert_file")
        .map_err(one)?
        .is_empty()
    {
        service
            .warnings
            .push("smtpd_tls_dcert_file: DSA certificates are not supported".into());
    }
    match problems.is_empty() {
        true => Ok(found),
        false => Err(problems),
    }
}

/// The parameter that names the file which the error is about.
fn blamed(
    error: &KeyError,
    key_file: &Path,
    certificate: &'static str,
    key: &'static str,
) -> &'static str {
    let path = match error {
        KeyError::Read { path, .. }
        | KeyError::Pem { path, .. }
        | KeyError::Missing { path, .. }
        | KeyError::Key { path, .. }
        | KeyError::Mismatch { path } => path,
    };
    if path == key_file { key } else { certificate }
}

fn at(config: &Config, name: &'static str, error: &KeyError) -> ConfigError {
    ConfigError::new(
        error.to_string(),
        "name a PEM file that the server may read, with the certificate and its chain, or the key",
    )
    .at(config.origin(name))
    .parameter(name)
}

/// `smtpd_tls_CAfile` and `smtpd_tls_CApath`.
fn authorities(
    config: &Config,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, ConfigError> {
    let mut found = Vec::new();
    let name = "smtpd_tls_CAfile";
    let file = config.string(name)?;
    if !file.is_empty() {
        let file = PathBuf::from(file);
        found.extend(keys::certificates(&file).map_err(|error| at(config, name, &error))?);
        files.push(file);
    }
    let name = "smtpd_tls_CApath";
    let folder = config.string(name)?;
    if !folder.is_empty() {
        let entries = std::fs::read_dir(&folder).map_err(|source| {
            let path = PathBuf::from(&folder);
            at(config, name, &KeyError::Read { path, source })
        })?;
        for entry in entries.flatten() {
            // The folder may hold other things; what is no certificate is none.
            found.extend(keys::certificates(&entry.path()).unwrap_or_default());
        }
        files.push(PathBuf::from(folder));
    }
    Ok(found)
}

fn loglevel(config: &Config) -> Result<i64, ConfigError> {
    let name = "smtpd_tls_loglevel";
    let text = config.string(name)?;
    text.trim().parse().map_err(|_| {
        ConfigError::new("not a log level", "write a number from 0 to 4")
            .at(config.origin(name))
            .parameter(name)
            .value(&text)
    })
}

fn digest(config: &Config) -> Result<Digest, ConfigError> {
    let name = "smtpd_tls_fingerprint_digest";
    let text = config.string(name)?;
    Digest::of(&text).ok_or_else(|| {
        ConfigError::new(
            "unknown digest",
            "use one of: sha256, sha384, sha512, sha1, md5",
        )
        .at(config.origin(name))
        .parameter(name)
        .value(&text)
    })
}

/// The files of those tables that can be listed are read now: a mistake shows at once, and they are watched.
fn check_sni(config: &Config, tls: &Tls, files: &mut Vec<PathBuf>) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for table in tls.sni.tables() {
        let entries = match table.entries() {
            Ok(entries) => entries.unwrap_or_default(),
            Err(error) => {
                let mistake = ConfigError::new(error.to_string(), "build the table anew")
                    .at(config.origin("tls_server_sni_maps"))
                    .parameter("tls_server_sni_maps");
                problems.push(mistake);
                continue;
            }
        };
        for (_, list) in entries {
            let list = String::from_utf8_lossy(&list);
            files.extend(config::split_list(&list).into_iter().map(PathBuf::from));
            if let Err(error) = tls.sni_identities.get(&tls.provider, &list) {
                problems.push(at(config, "tls_server_sni_maps", &error));
            }
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems),
    }
}
