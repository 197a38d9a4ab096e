//! The parameters that the three engines share, with the older way of giving a query.

use std::time::Duration;

use super::Engine;
use super::hosts::{self, Defaults};
use super::pool::{Login, Target};
use crate::error::TableError;
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
pub(super) fn target(parameters: &Parameters, engine: Engine) -> Result<Target, TableError> {
    let option_file = match engine {
        Engine::MySql => OptionFile::for_table(parameters)?,
        _ => OptionFile::default(),
    };
    let given = |name: &str| parameters.text(name, "", 0);
    let mut login = Login {
        user: given("user")?,
        password: given("password")?,
        dbname: given("dbname")?,
        charset: given(if engine == Engine::PgSql {
            "encoding"
        } else {
            "charset"
        })?,
    };
    if parameters.get("encoding")?.is_some() && engine == Engine::PgSql {
        parameters.text("encoding", "UTF8", 1)?;
    }
    if login.user.is_empty() {
        login.user = option_file
            .user
            .unwrap_or_else(|| std::env::var("USER").unwrap_or_else(|_| "root".to_string()));
    }
    let defaults = Defaults {
        socket: option_file.socket,
        port: option_file.port,
    };
    let mut list = config::split_list(&given("hosts")?);
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
    if engine == Engine::MySql {
        parameters.boolean("tls_verify_cert", false)?;
        for what in ["CAfile", "CApath", "cert_file", "key_file"] {
            let name = format!("tls_{what}");
            if parameters
                .get(&name)?
                .is_some_and(|value| !value.is_empty())
            {
                tracing::warn!(
                    "{}: {name} has no effect in this version: the connection to the database is not \
                     encrypted",
                    parameters.name()
                );
                break;
            }
        }
    }
    Ok(Target {
        engine,
        hosts,
        login,
        retry_interval: seconds("retry_interval")?,
        idle_interval: seconds("idle_interval")?,
    })
}
