//! Everything in turn.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use config::Config;
use route::Router;
use tables::Tables;

use crate::contents::{self, Listed, Maps};
use crate::database::Databases;
use crate::domains::Domains;
use crate::finding::{Finding, Place, Report, Severity};
use crate::sources::Known;
use crate::{addresses, database, domains, files, plan, rows, settings, sources};

/// How much is told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Findings of one kind that are told one by one; the others are counted.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { limit: 20 }
    }
}

/// Everything that the checks of rows need.
pub(crate) struct Directory<'a> {
    pub config: &'a Config,
    pub tables: &'a Tables,
    pub known: &'a [Known],
    pub router: Router,
    pub aliases: Maps,
    pub mailboxes: Maps,
    pub domains: Domains,
    pub limit: usize,
}

impl Directory<'_> {
    /// A destination in canonical form.
    pub fn canonical(&self, destination: &str) -> String {
        match contents::is_plain(destination) {
            true => destination.to_owned(),
            false => self.router.rewrite(destination),
        }
    }

    /// The row with this key in a table of a list.
    pub fn row_place(&self, maps: &Maps, table: usize, key: &str) -> Place {
        let spec = maps.tables.get(table).map_or("", |(spec, _)| spec);
        let known = self.known.iter().find(|known| known.source.spec() == spec);
        match known {
            Some(known) => known.query_place().table(&domains::table_name(known)),
            None => sources::text_place(spec),
        }
        .row(key)
    }
}

/// Looks through configuration and databases. `own_addresses`: what [`route::own_addresses`] says.
/// Nothing is changed.
pub async fn check(config: &Config, own_addresses: Vec<IpAddr>, options: Options) -> Report {
    let mut report = Report::default();
    settings::check(config, &mut report);
    let tables = Tables::new(config);
    let known = sources::find(config, &tables, &mut report);
    files::check(config, &known, &mut report);
    let mut databases = Databases::connect(&known, &mut report).await;
    databases.check_rights(&known, &mut report).await;
    let listed = look_at_tables(&known, &tables, &mut databases, options, &mut report).await;
    match Router::new(config, &tables, own_addresses) {
        Err(mistake) => {
            let finding = settings::mistaken(config, &mistake);
            if !report.findings.contains(&finding) {
                report.add(finding);
            }
        }
        Ok(_) if !report.may_look_up() => {}
        Ok(router) => {
            let mut directory = Directory {
                router,
                aliases: Maps::new(config, "virtual_alias_maps", &tables, &listed),
                mailboxes: Maps::new(config, "virtual_mailbox_maps", &tables, &listed),
                domains: Domains::read(config, &tables, &listed),
                config,
                tables: &tables,
                known: &known,
                limit: options.limit,
            };
            report.looked_at.domains = directory.domains.count();
            report.looked_at.mailboxes = rows_of(&directory.mailboxes);
            report.looked_at.aliases = rows_of(&directory.aliases);
            domains::check(&mut directory, &mut report).await;
            addresses::check(&mut directory, &mut report).await;
        }
    }
    report.sort();
    report
}

fn rows_of(maps: &Maps) -> usize {
    maps.listed().map(|(_, _, rows)| rows.rows.len()).sum()
}

/// Tries every query, asks for its plan, and lists its rows.
async fn look_at_tables(
    known: &[Known],
    tables: &Tables,
    databases: &mut Databases,
    options: Options,
    report: &mut Report,
) -> HashMap<String, Arc<Listed>> {
    let mut all = HashMap::new();
    for (index, table) in known.iter().enumerate() {
        let quoted = database::check_quotes(table, report);
        let Some(session) = databases.session(index) else {
            continue;
        };
        if !quoted || !database::try_query(table, session, report).await {
            continue;
        }
        let listed = match wanted(table) {
            true => contents::list(table, session).await,
            false => Ok(None),
        };
        match listed {
            Ok(listed) => {
                plan::check(table, session, listed.as_ref(), report).await;
                let Some(listed) = listed else {
                    not_listed(table, report);
                    continue;
                };
                let listed = Arc::new(listed);
                rows::check(table, &listed, tables, session, options.limit, report).await;
                all.insert(table.source.spec().to_owned(), listed);
            }
            Err(problem) => {
                plan::check(table, session, None, report).await;
                report.add(unlisted(table, &format!("the database says: {problem}")));
            }
        }
    }
    all
}

/// Tables whose rows are looked through.
fn wanted(table: &Known) -> bool {
    const LISTS: [&str; 6] = [
        "mydestination",
        "virtual_alias_domains",
        "virtual_alias_maps",
        "virtual_mailbox_domains",
        "virtual_mailbox_maps",
        "relay_domains",
    ];
    LISTS.iter().any(|parameter| table.serves(parameter))
}

fn not_listed(table: &Known, report: &mut Report) {
    if let (true, Err(reason)) = (wanted(table), &table.select) {
        report.add(unlisted(table, reason));
    }
}

fn unlisted(table: &Known, reason: &str) -> Finding {
    Finding::new(
        Severity::Note,
        "rows-not-listed",
        table.query_place(),
        format!("the rows of this table cannot be listed: {reason}"),
    )
    .so(format!(
        "what is in it counts where other tables lead there, but is not looked through ({})",
        table.parameters()
    ))
    .remedy("none needed; queries like SELECT a FROM t WHERE b='%s' can be listed")
}
