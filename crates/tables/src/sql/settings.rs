//! The parameters that the three engines share, with the older way of giving a query.

use std::time::Duration;

use super::Engine;
use super::conninfo::{self, ConnInfo};
use super::hosts::{self, Defaults};
use super::pool::{Login, Target};
use super::tls::{self, Tls, Verify, Versions, When};
use crate::error::TableError;
use crate::open::Tables;
use crate::option_file::OptionFile;
use crate::parameters::Parameters;

pub(crate) struct Settings {
    pub query: String,
    pub result_format: String,
    pub domain: String,
    pub expansion_limit: i64,
}

impl Settings {
    pub fn read(parameters: &Parameters, engine: Engine) -> Result<Settings, TableError> {
        match engine {
            Engine::Sqlite => parameters.text("dbpath", "", 1)?,
            _ => parameters.text("dbname", "", 1)?,
        };
        let result_format = match parameters.get("result_format")? {
            Some(_) => parameters.text("result_format", "%s", 1)?,
            None => "%s".to_string(),
        };
        let query = match parameters.get("query")? {
            Some(query) if !query.is_empty() => query,
            _ => legacy_query(parameters, engine)?,
        };
        Ok(Settings {
            query,
            result_format,
            expansion_limit: parameters.number("expansion_limit", 0, None)?,
            domain: parameters.text("domain", "", 0)?,
        })
    }
}

/// `select_function`, or `table`, `select_field`, `where_field`, `additional_conditions`.
fn legacy_query(parameters: &Parameters, engine: Engine) -> Result<String, TableError> {
    if engine == Engine::PgSql {
        let function = parameters.text("select_function", "", 0)?;
        if !function.is_empty() {
            return Ok(format!("SELECT {function}('%s')"));
        }
    }
    let table = parameters.text("table", "", 1)?;
    let select = parameters.text("select_field", "", 1)?;
    let place = parameters.text("where_field", "", 1)?;
    let more = parameters.text("additional_conditions", "", 0)?;
    Ok(format!(
        "SELECT {select} FROM {table} WHERE {place} = '%s' {more}"
    ))
}

/// The servers, and who to be there.
pub(super) fn target(
    parameters: &Parameters,
    engine: Engine,
    tables: &Tables,
) -> Result<Target, TableError> {
    let (login, defaults) = match engine {
        Engine::PgSql => pgsql_login(parameters)?,
        _ => mysql_login(parameters, tables)?,
    };
    let mut list = config::split_list(&parameters.text("hosts", "", 0)?);
    if list.is_empty() {
        list.push("localhost".to_string());
    }
    let hosts = list
        .iter()
        .map(|host| {
            hosts::parse(host, engine, &defaults)
                .map_err(|text| TableError::operator(parameters.spec(), text))
        })
        .collect::<Result<_, _>>()?;
    let seconds = |name: &str| {
        parameters
            .number(name, 60, Some(1))
            .map(|n| Duration::from_secs(n.unsigned_abs()))
    };
    Ok(Target {
        engine,
        hosts,
        login,
        retry_interval: seconds("retry_interval")?,
        idle_interval: seconds("idle_interval")?,
    })
}

/// `dbname` may be a text that says more; `user` and `password` come before what it says.
fn pgsql_login(parameters: &Parameters) -> Result<(Login, Defaults), TableError> {
    let given = |name: &str| parameters.text(name, "", 0);
    if parameters.get("encoding")?.is_some() {
        parameters.text("encoding", "UTF8", 1)?;
    }
    let (dbname, charset) = (given("dbname")?, given("encoding")?);
    let invalid = |text: String| parameters.error(format!("dbname: {text}"));
    let mut info = ConnInfo::default();
    match conninfo::is_conninfo(&dbname) {
        true => info = ConnInfo::parse(&dbname).map_err(invalid)?,
        false => info.set("dbname", &dbname),
    }
    info.set("user", &given("user")?);
    info.set("password", &given("password")?);
    let mut login = info.login(&charset).map_err(invalid)?;
    // `hosts` decides where to go, also against the text.
    login.tls.name = None;
    let defaults = Defaults {
        port: info.port().map_err(invalid)?,
        charset,
        ..Defaults::default()
    };
    Ok((login, defaults))
}

fn mysql_login(parameters: &Parameters, tables: &Tables) -> Result<(Login, Defaults), TableError> {
    let given = |name: &str| parameters.text(name, "", 0);
    let file = OptionFile::for_table(parameters)?;
    file.files.iter().for_each(|path| tables.note_file(path));
    let tls = mysql_tls(parameters, &file)?;
    let mut login = Login {
        user: given("user")?,
        password: given("password")?,
        dbname: given("dbname")?,
        charset: file.charset.map_or_else(|| given("charset"), Ok)?,
        tls,
        init_commands: file.init_commands,
        session: Vec::new(),
        connect_timeout: file
            .connect_timeout
            .filter(|&seconds| seconds > 0)
            .map(Duration::from_secs),
    };
    if login.user.is_empty() {
        login.user = file.user.unwrap_or_else(os_user);
    }
    let defaults = Defaults {
        host: file.host,
        socket: file.socket,
        port: file.port,
        charset: String::new(),
    };
    Ok((login, defaults))
}

/// As Postfix and MariaDB's library have it: any of the settings asks for TLS if the server offers it;
/// a CA has the certificate checked, `tls_verify_cert` its name too, and refuses a server without TLS.
fn mysql_tls(parameters: &Parameters, file: &OptionFile) -> Result<Tls, TableError> {
    let setting = |name: &str, from_file: &Option<String>| match from_file {
        Some(value) => Ok(Some(value.clone())),
        None => parameters
            .text(name, "", 0)
            .map(|value| (!value.is_empty()).then_some(value)),
    };
    let mut tls = Tls {
        ca_file: setting("tls_CAfile", &file.ssl_ca)?,
        ca_path: setting("tls_CApath", &file.ssl_capath)?,
        cert_file: setting("tls_cert_file", &file.ssl_cert)?,
        key_file: setting("tls_key_file", &file.ssl_key)?,
        ..Tls::default()
    };
    if let Some(ciphers) = setting("tls_ciphers", &file.ssl_cipher)? {
        let separators = [':', ',', ' '];
        let names = ciphers.split(separators).filter(|name| !name.is_empty());
        tls.ciphers = names.map(str::to_string).collect();
        for name in tls::unknown_ciphers(&tls.ciphers) {
            tracing::warn!(
                "{}: tls_ciphers: {name} has no effect: it is not among the ciphers of this program, which are \
                 {}, and those of TLS 1.3",
                parameters.name(),
                tls::known_ciphers()
            );
        }
    }
    if let Some(versions) = &file.tls_version {
        let has = |version: &str| versions.split(',').any(|one| one.trim() == version);
        tls.versions = Versions {
            tls12: has("TLSv1.2"),
            tls13: has("TLSv1.3"),
        };
    }
    let verify = parameters.boolean("tls_verify_cert", false)?;
    let has_ca = tls.ca_file.is_some() || tls.ca_path.is_some();
    let asked = has_ca
        || tls.cert_file.is_some()
        || tls.key_file.is_some()
        || !tls.ciphers.is_empty()
        || file.ssl_enforce;
    (tls.when, tls.verify) = match (file.ssl_verify.unwrap_or(verify), asked) {
        (true, _) => (When::Always, Verify::Name),
        (false, true) if has_ca => (When::Offered, Verify::Chain),
        (false, true) => (When::Offered, Verify::Nothing),
        (false, false) => (When::Never, Verify::Nothing),
    };
    Ok(tls)
}

/// Whom the client libraries take for the user where none is named.
pub(super) fn os_user() -> String {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
