//! Lookups that read a whole table: what the database says it would do (EXPLAIN), and the index that
//! spares it.

use serde_json::Value;
use tables::{Dialect, Session};

use crate::contents::Listed;
use crate::database::SAMPLE;
use crate::finding::{Finding, Report, Severity};
use crate::select::{self, Select};
use crate::sources::Known;

/// Reports the tables that the query reads from end to end. `listed`: its rows, where they are known.
pub(crate) async fn check(
    table: &Known,
    session: &mut Session,
    listed: Option<&Listed>,
    report: &mut Report,
) {
    // For a key that is not there a database may see at once that no row fits, and plan nothing.
    let key = listed.and_then(|listed| listed.rows.first());
    let key = key.map_or(SAMPLE, |entry| &entry.key);
    let rows = listed.map(|listed| listed.rows.len());
    let scanned = match scanned_tables(table, session, key).await {
        Ok(scanned) => scanned,
        Err(problem) => {
            report.add(
                Finding::new(
                    Severity::Note,
                    "plan-unknown",
                    table.query_place(),
                    format!("the database does not tell how it runs the query: {problem}"),
                )
                .so("whether an index serves the lookups is not known")
                .remedy("run EXPLAIN with the query as the database's administrator"),
            );
            return;
        }
    };
    for name in scanned {
        let finding = scans(table, session, &name, rows).await;
        let told = report.findings.iter().any(|known| {
            known.code == finding.code
                && known.place.table == finding.place.table
                && known.fix == finding.fix
                && !known.fix.is_empty()
        });
        if !told {
            report.add(finding);
        }
    }
}

async fn scanned_tables(
    table: &Known,
    session: &mut Session,
    key: &str,
) -> Result<Vec<String>, String> {
    let query = table.source.query().trim().trim_end_matches(';');
    match table.source.dialect() {
        Dialect::MySql => {
            let template = format!("EXPLAIN FORMAT=JSON {query}");
            let rows = session.ask(&template, key, 1).await?;
            let plan = plan_of(rows)?;
            let mut found = Vec::new();
            mysql_scans(&plan, &mut found);
            Ok(found)
        }
        Dialect::PgSql => {
            // With few rows PostgreSQL reads the table although there is an index.
            session.run("SET enable_seqscan = off", 1).await?;
            let template = format!("EXPLAIN (FORMAT JSON) {query}");
            let rows = session.ask(&template, key, 1).await?;
            let plan = plan_of(rows)?;
            let mut found = Vec::new();
            pgsql_scans(&plan, &mut found);
            Ok(found)
        }
        Dialect::Sqlite => {
            let template = format!("EXPLAIN QUERY PLAN {query}");
            let rows = session.ask(&template, key, 4).await?;
            let details = rows.into_iter().filter_map(|row| row.into_iter().nth(3)?);
            Ok(details.filter_map(|detail| sqlite_scan(&detail)).collect())
        }
    }
}

fn plan_of(rows: Vec<tables::Row>) -> Result<Value, String> {
    let text: Vec<String> = rows.into_iter().flatten().flatten().collect();
    serde_json::from_str(&text.concat()).map_err(|error| format!("unknown plan: {error}"))
}

/// MySQL and MariaDB: `"access_type": "ALL"`, or a whole index (`index`), with no index to choose.
fn mysql_scans(plan: &Value, found: &mut Vec<String>) {
    if let (Some(name), Some(access)) = (plan["table_name"].as_str(), plan["access_type"].as_str())
    {
        let whole = matches!(access, "ALL" | "index");
        if whole && plan["possible_keys"].is_null() {
            found.push(name.to_owned());
        }
    }
    for inner in children(plan) {
        mysql_scans(inner, found);
    }
}

/// PostgreSQL: a scan of the table, or of an index without a condition on it.
fn pgsql_scans(plan: &Value, found: &mut Vec<String>) {
    if let (Some(node), Some(name)) = (plan["Node Type"].as_str(), plan["Alias"].as_str()) {
        let by_index = node.starts_with("Index") && plan["Index Cond"].is_null();
        if node == "Seq Scan" || by_index {
            found.push(name.to_owned());
        }
    }
    for inner in children(plan) {
        pgsql_scans(inner, found);
    }
}

fn children(plan: &Value) -> Vec<&Value> {
    match plan {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

/// SQLite: `SCAN users AS u`, `SCAN u USING COVERING INDEX x`, `SEARCH u USING AUTOMATIC … INDEX`.
fn sqlite_scan(detail: &str) -> Option<String> {
    let mut words = detail.split_whitespace();
    let verb = words.next()?;
    let name = words.find(|word| *word != "TABLE")?;
    let scans = verb == "SCAN" || verb == "SEARCH" && detail.contains("AUTOMATIC");
    (scans && name != "CONSTANT" && !name.starts_with('(')).then(|| name.to_owned())
}

async fn scans(table: &Known, session: &mut Session, alias: &str, rows: Option<usize>) -> Finding {
    let select = table.select.as_ref().ok();
    let name = select
        .and_then(|select| select.table_called(alias))
        .unwrap_or(alias)
        .to_owned();
    let size = match rows {
        Some(rows) if select.is_some_and(|select| select.only_table().is_some()) => {
            format!(" ({rows} row{} now)", if rows == 1 { "" } else { "s" })
        }
        _ => String::new(),
    };
    let finding = Finding::new(
        Severity::Warning,
        "no-index",
        table.query_place().table(&name),
        format!(
            "each lookup reads the whole table {name}{size}: no index has what the query compares"
        ),
    )
    .so("lookups, of which every message makes several, get slower with every row");
    let Some(columns) = select.and_then(|select| columns(select, alias)) else {
        return finding.remedy(format!(
            "create an index on the columns of {name} that the query compares, or write the query so that it compares a plain column with '%s'"
        ));
    };
    let plain = columns
        .iter()
        .all(|column| select::column(column).is_some());
    if !plain && table.is_mysql() {
        return finding.remedy(format!(
            "no index can serve {}: compare plain columns with '%u' and '%d' instead",
            columns.join(", ")
        ));
    }
    let mut parts = Vec::new();
    for column in &columns {
        let long = table.is_mysql() && is_long(session, &name, column).await;
        parts.push(match (long, select::column(column)) {
            (true, _) => format!("{column}(191)"),
            (false, Some(_)) => column.clone(),
            // An expression.
            (false, None) => format!("({column})"),
        });
    }
    let label: String = format!("{name}_{}", columns.join("_"))
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .collect();
    finding.remedy("create an index").sql(format!(
        "CREATE INDEX {} ON {name} ({});",
        label.trim_end_matches('_'),
        parts.join(", ")
    ))
}

/// What an index of the table should have: the columns compared with the key, else those of joins.
fn columns(select: &Select, alias: &str) -> Option<Vec<String>> {
    let compared = select.compared_in(alias);
    let columns: Vec<String> = match compared.is_empty() {
        false => compared.iter().map(|column| (*column).to_owned()).collect(),
        true => select.joined_columns(alias).into_iter().take(1).collect(),
    };
    (!columns.is_empty()).then_some(columns)
}

/// MySQL indexes only the beginning of TEXT and of very long VARCHAR columns.
async fn is_long(session: &mut Session, table: &str, column: &str) -> bool {
    let table = select::unquoted(table);
    let table = table.rsplit('.').next().unwrap_or_default();
    let column = select::unquoted(column);
    let template = "SELECT COALESCE(CHARACTER_MAXIMUM_LENGTH, 0) FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND CONCAT(table_name, '.', column_name) = '%s'";
    let rows = session.ask(template, &format!("{table}.{column}"), 1).await;
    let length = rows
        .ok()
        .and_then(|rows| rows.into_iter().flatten().next()?);
    length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > 750)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        for (detail, expected) in [
            ("SCAN users", Some("users")),
            ("SCAN TABLE users", Some("users")),
            ("SCAN u USING COVERING INDEX x", Some("u")),
            ("SEARCH users USING INDEX email (email=?)", None),
            ("SEARCH d USING AUTOMATIC COVERING INDEX (id=?)", Some("d")),
            ("SCAN CONSTANT ROW", None),
        ] {
            assert_eq!(sqlite_scan(detail).as_deref(), expected, "{detail}");
        }
        let plan = serde_json::json!({"query_block": {"nested_loop": [
            {"table": {"table_name": "a", "access_type": "ALL"}},
            {"table": {"table_name": "b", "access_type": "ALL", "possible_keys": ["x"]}},
            {"table": {"table_name": "c", "access_type": "ref", "possible_keys": ["x"]}}]}});
        let mut found = Vec::new();
        mysql_scans(&plan, &mut found);
        assert_eq!(found, ["a"]);
        let plan = serde_json::json!([{"Plan": {"Node Type": "Nested Loop", "Plans": [
            {"Node Type": "Seq Scan", "Relation Name": "t", "Alias": "a"},
            {"Node Type": "Index Scan", "Alias": "b", "Index Cond": "(x = 1)"}]}}]);
        let mut found = Vec::new();
        pgsql_scans(&plan, &mut found);
        assert_eq!(found, ["a"]);
    }
}
