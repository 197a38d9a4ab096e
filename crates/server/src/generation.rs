//! One state of the configuration, read and checked as a whole. A reload makes a new one; sessions
//! and deliveries take it over at their next transaction.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use config::master::{Service, ServiceKind};
use config::{Config, ConfigError, Environment};
use delivery::Agents;
use filter::CheckLists;
use policy::Policy;
use queue::ScheduleSettings;
use route::Router;
use smtp::server::{BareNewline, Keyword, NameStatus, Peer, Settings as SmtpSettings};
use tables::{CidrList, MatchList, TableError, TableList, Tables};

use crate::limits::{Room, TransportLimits, transport_parameter};
use crate::log;
use crate::rates::Limits;
use crate::remarks::Remarks;
use crate::sasl::{self, Sasl};
use crate::spawn::{self, Spawn};
use crate::tls;

/// A mistake in the configuration, one line, with its remedy.
#[derive(Clone, Debug)]
pub struct Problem(String, Option<ConfigError>);

impl Problem {
    /// Its parts, where it is about a setting.
    pub fn mistake(&self) -> Option<&ConfigError> {
        self.1.as_ref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        Problem(error.to_string(), Some(error))
    }
}

impl From<TableError> for Problem {
    fn from(error: TableError) -> Self {
        Problem(error.to_string(), None)
    }
}

/// The settings of one `inet … smtpd` service.
pub(crate) struct Smtpd {
    pub service: Service,
    /// `syslog_name`.
    pub log_name: log::Name,
    pub settings: Arc<SmtpSettings>,
    /// The same for clients in `smtpd_forbid_bare_newline_exclusions`.
    pub lenient: Arc<SmtpSettings>,
    pub lenient_clients: CidrList,
    pub policy: Policy,
    pub incoming: Incoming,
    pub tls: tls::Service,
    pub sasl: Option<Sasl>,
    /// Sessions at once.
    pub room: Room,
    /// `smtpd_milters`.
    pub milters: Option<Arc<filter::MilterSettings>>,
    /// `header_checks` and its relatives.
    pub checks: Option<Arc<CheckLists>>,
}

impl Smtpd {
    /// What a session with this client runs by.
    pub async fn settings_for(&self, client: IpAddr) -> Arc<SmtpSettings> {
        let exempt = self.lenient_clients.matches(client).await.unwrap_or(false);
        Arc::clone(if exempt {
            &self.lenient
        } else {
            &self.settings
        })
    }
}

/// What the way of a message into the queue needs.
pub(crate) struct Incoming {
    pub myhostname: String,
    pub mail_name: String,
    pub hopcount_limit: usize,
    pub enable_original_recipient: bool,
    pub map_addresses: bool,
    pub limits: Limits,
    /// `content_filter`; empty without.
    pub content_filter: String,
    /// `default_filter_nexthop`, for a filter that names none.
    pub filter_nexthop: String,
    /// `smtpd_command_filter`.
    pub command_filter: TableList,
    /// `smtpd_authorized_xclient_hosts`.
    pub xclient_hosts: HostList,
    /// `smtpd_authorized_xforward_hosts`.
    pub xforward_hosts: HostList,
    pub peername_lookup: bool,
    /// `smtpd_client_port_logging`.
    pub port_logging: bool,
    /// Domains that ETRN may ask for.
    pub fast_flush_domains: MatchList,
    /// `smtpd_tls_received_header`.
    pub show_tls: bool,
    /// `always_add_missing_headers`.
    pub add_missing_headers: bool,
    /// `header_size_limit`.
    pub header_limit: usize,
    /// Headers to leave out (`message_drop_headers`), in lower case.
    pub drop_headers: Vec<String>,
}

/// Hosts by name or address, as namadr_list(3).
pub(crate) struct HostList {
    names: MatchList,
    addresses: CidrList,
}

impl HostList {
    fn new(config: &Config, tables: &Tables, parameter: &str) -> Result<HostList, ConfigError> {
        let list = config.string(parameter)?;
        let parents = config.list("parent_domain_matches_subdomains")?;
        let with_parents = parents.iter().any(|name| name == parameter);
        Ok(HostList {
            names: tables.match_list(&list, with_parents),
            addresses: tables.network_list(&list),
        })
    }

    /// Whether the client is one of them; a table that fails takes nobody in.
    pub async fn has(&self, client: &Peer) -> bool {
        let by_address = !client.address.is_unspecified()
            && self
                .addresses
                .matches(client.address)
                .await
                .unwrap_or(false);
        by_address
            || (client.name_status == NameStatus::Known
                && self.names.matches(&client.name).await.unwrap_or(false))
    }
}

/// Where the queue is, and how it is run.
#[derive(Clone)]
pub(crate) struct SpoolSettings {
    pub directory: PathBuf,
    pub options: queue::Options,
}

/// One complete configuration.
pub struct Generation {
    pub(crate) config: Config,
    tables: Tables,
    pub(crate) smtpd: Vec<Arc<Smtpd>>,
    /// Services that run a command for each connection.
    pub(crate) spawn: Vec<Arc<Spawn>>,
    /// For mail that is in the queue: no service's overrides.
    pub(crate) router: Arc<Router>,
    pub(crate) agents: Agents,
    pub(crate) reports: delivery::dsn::Settings,
    pub(crate) schedule: ScheduleSettings,
    pub(crate) active_limit: usize,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) spool: SpoolSettings,
    pub(crate) limits: TransportLimits,
    log_names: HashMap<String, log::Name>,
    warnings: Vec<String>,
    /// Settings and services that are not supported, and what follows; they are logged, and told by `postroom check` itself.
    unsupported: Vec<String>,
    /// Settings without effect that do no harm, in one line.
    harmless: Option<String>,
    /// Certificates, keys and CAs.
    certificate_files: BTreeSet<PathBuf>,
}

impl Generation {
    /// Reads main.cf and master.cf of a folder, and everything they name.
    pub fn read(dir: &Path, environment: &Environment) -> Result<Generation, Vec<Problem>> {
        let (config, mistakes) = Config::load_whole(dir, environment);
        Generation::complete(config, mistakes, environment)
    }

    /// The configuration as a whole; all mistakes are listed at once. A table that cannot be opened is none of
    /// them: it is logged and fails its lookups, as in Postfix. See [`Generation::broken_tables`].
    pub fn build(config: Config, environment: &Environment) -> Result<Generation, Vec<Problem>> {
        Generation::complete(config, Vec::new(), environment)
    }

    /// What reads a setting stops at its first mistake. So each setting that is wrong is taken out, and the rest
    /// looked at again, until nothing more is found.
    fn complete(
        mut config: Config,
        mut mistakes: Vec<ConfigError>,
        environment: &Environment,
    ) -> Result<Generation, Vec<Problem>> {
        mistakes.extend(crate::listen::misaddressed(&config));
        loop {
            let mut found = config.check();
            if found.is_empty() {
                match Generation::assemble(&config, Tables::new(&config), environment) {
                    Ok(generation) if mistakes.is_empty() => return Ok(generation),
                    Ok(_) => break,
                    Err(more) => found = more,
                }
            }
            let before = mistakes.len();
            for mistake in found {
                if mistakes.contains(&mistake) {
                    continue;
                }
                if let Some(rest) = config.without(&mistake) {
                    config = rest;
                }
                mistakes.push(mistake);
            }
            if mistakes.len() == before {
                break;
            }
        }
        Err(mistakes.into_iter().map(Problem::from).collect())
    }

    fn assemble(
        config: &Config,
        tables: Tables,
        environment: &Environment,
    ) -> Result<Generation, Vec<ConfigError>> {
        let one = |error: ConfigError| vec![error];
        let own = own_addresses(config, environment).map_err(one)?;
        let mut warnings: Vec<String> = config.warnings().to_vec();
        let mut files = BTreeSet::new();
        let mut remarks = Remarks::default();
        let smtpd = services(config, &tables, &own, &mut remarks, &mut files)?;
        let spawn = spawn::services(config, &mut remarks);
        warnings.extend(remarks.lines());
        let rest = Generation::around(config, tables, own);
        let generation = rest.map_err(one)?;
        warnings.extend(out_of_work(&generation.agents));
        let (mut unsupported, harmless) = config::effects::lines(config);
        unsupported.extend(config::effects::service_lines(config));
        Ok(Generation {
            smtpd,
            spawn,
            warnings,
            unsupported,
            harmless,
            certificate_files: files,
            ..generation
        })
    }

    /// All but the SMTP services.
    fn around(
        config: &Config,
        tables: Tables,
        own: Vec<IpAddr>,
    ) -> Result<Generation, ConfigError> {
        Ok(Generation {
            router: Arc::new(Router::new(config, &tables, own)?),
            reports: delivery::dsn::Settings::of(config)?,
            schedule: schedule(config)?,
            active_limit: positive(config, "qmgr_message_active_limit")?,
            shutdown_timeout: config.time("postroom_shutdown_timeout")?,
            spool: spool(config)?,
            limits: TransportLimits::new(config),
            log_names: log_names(config)?,
            agents: Agents::new(config, &tables),
            config: config.clone(),
            tables,
            smtpd: Vec::new(),
            spawn: Vec::new(),
            warnings: Vec::new(),
            unsupported: Vec::new(),
            harmless: None,
            certificate_files: BTreeSet::new(),
        })
    }

    /// Tables that are named in main.cf but cannot be opened.
    pub fn broken_tables(&self) -> Vec<Problem> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for name in TABLE_PARAMETERS {
            let Ok(list) = self.config.string(name) else {
                continue;
            };
            for spec in tables::split_specs(&list) {
                if !spec.contains(':') || !seen.insert(spec.clone()) {
                    continue;
                }
                if let Err(error) = self.tables.open(&spec) {
                    problems.push(Problem(format!("{name}: {error}"), None));
                }
            }
        }
        problems
    }

    /// What the administrator should know of this configuration.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Logs what the administrator should know of this configuration, and has not been told of the one before.
    pub fn report(&self, before: Option<&Generation>) {
        let told = |line: &String| {
            before.is_some_and(|old| old.warnings.contains(line) || old.unsupported.contains(line))
        };
        let lines = self.warnings.iter().chain(&self.unsupported);
        for line in lines.filter(|line| !told(line)) {
            tracing::warn!(prog = "master", "{line}");
        }
        if let Some(line) = &self.harmless
            && before.is_none_or(|old| old.harmless.as_ref() != Some(line))
        {
            tracing::info!(prog = "master", "{line}");
        }
    }

    /// Every file that this configuration was read from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let dir = self.config.dir();
        let mut files = vec![dir.join("main.cf"), dir.join("master.cf")];
        files.extend(self.tables.files());
        files.extend(self.certificate_files.iter().cloned());
        files
    }

    /// `syslog_name` as the service of this transport has it, where that is another than main.cf's.
    pub(crate) fn log_name(&self, transport: &str) -> Option<&log::Name> {
        self.log_names.get(transport)
    }

    /// `TRANSPORT_destination_recipient_limit`.
    pub(crate) fn recipient_limit(&self, transport: &str) -> usize {
        let limit = transport_parameter(&self.config, transport, "destination_recipient_limit");
        limit.unwrap_or(usize::MAX)
    }
}

/// One line about all transports that cannot deliver; a stock master.cf has some that nobody uses.
fn out_of_work(agents: &Agents) -> Option<String> {
    let problems = agents.problems();
    let told: Vec<String> = problems
        .iter()
        .map(|(name, problem)| format!("{name} ({problem})"))
        .collect();
    (!told.is_empty()).then(|| {
        let told = told.join(", ");
        format!("mail for these transports waits until their lines are right: {told}")
    })
}

/// The addresses of this machine that count as ours.
pub fn own_addresses(
    config: &Config,
    environment: &Environment,
) -> Result<Vec<IpAddr>, ConfigError> {
    let machine: Vec<IpAddr> = environment
        .interfaces
        .iter()
        .map(|interface| interface.address)
        .collect();
    route::own_addresses(config, &machine)
}

/// Parameters whose tables must be readable for a new configuration to be taken over.
const TABLE_PARAMETERS: &[&str] = &[
    "mydestination",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_uid_maps",
    "virtual_gid_maps",
    "local_recipient_maps",
    "relay_domains",
    "relay_recipient_maps",
    "transport_maps",
    "canonical_maps",
    "recipient_canonical_maps",
    "sender_canonical_maps",
    "recipient_bcc_maps",
    "sender_bcc_maps",
    "smtpd_sender_login_maps",
    "relay_clientcerts",
    "tls_server_sni_maps",
    "relocated_maps",
    "header_checks",
    "mime_header_checks",
    "nested_header_checks",
    "body_checks",
    "milter_header_checks",
    "smtpd_milter_maps",
];

/// The SMTP services of master.cf.
fn services(
    config: &Config,
    tables: &Tables,
    own: &[IpAddr],
    remarks: &mut Remarks,
    files: &mut BTreeSet<PathBuf>,
) -> Result<Vec<Arc<Smtpd>>, Vec<ConfigError>> {
    let mut smtpd = Vec::new();
    let mut problems: Vec<ConfigError> = Vec::new();
    // What is set in main.cf is wrong, or remarkable, in every service alike.
    let mut seen = BTreeSet::new();
    for service in config.services() {
        if service.kind != ServiceKind::Inet {
            continue;
        }
        let id = service.id();
        let instead = behind_postscreen(config, service);
        if service.command == "spawn" {
            continue;
        }
        if service.command != "smtpd" && instead.is_none() {
            let command = &service.command;
            remarks.add(
                &id,
                format!("Postroom has no {command}; nothing listens there"),
            );
            continue;
        }
        if let Some(instead) = &instead {
            let behind = instead.line;
            remarks.add(
                &id,
                format!("Postroom has no postscreen; smtpd listens there, as in line {behind} of master.cf, and takes clients that postscreen would keep out"),
            );
        }
        let service = instead.as_ref().unwrap_or(service);
        let built = match build_smtpd(config, service, tables, own, remarks) {
            Ok(built) => built,
            Err(errors) => {
                let new = errors.into_iter();
                problems.extend(new.filter(|problem| seen.insert(problem.to_string())));
                continue;
            }
        };
        files.extend(built.tls.files.iter().cloned());
        for warning in &built.tls.warnings {
            remarks.add(&id, warning.clone());
        }
        if built.tls.wrapper && built.tls.tls.is_none() {
            remarks.add(&id, "without a certificate nothing listens there");
            continue;
        }
        for name in built.policy.unsupported() {
            remarks.add(
                &id,
                format!(
                    "restriction {name} is not applied by this version: it lets everything pass"
                ),
            );
        }
        smtpd.push(Arc::new(built));
    }
    match problems.is_empty() {
        true => Ok(smtpd),
        false => Err(problems),
    }
}

/// The `pass … smtpd` service that a postscreen hands its clients to, at postscreen's address.
fn behind_postscreen(config: &Config, service: &Service) -> Option<Service> {
    let mut services = config.services().iter();
    let behind = services.find(|other| other.kind == ServiceKind::Pass && other.command == "smtpd");
    let behind = behind.filter(|_| service.command == "postscreen")?;
    Some(Service {
        name: service.name.clone(),
        kind: ServiceKind::Inet,
        ..behind.clone()
    })
}

fn build_smtpd(
    config: &Config,
    service: &Service,
    tables: &Tables,
    own: &[IpAddr],
    remarks: &mut Remarks,
) -> Result<Smtpd, Vec<ConfigError>> {
    let one = |error: ConfigError| vec![error];
    let whole = config;
    let config = config.for_service(service);
    let milters = filter::MilterSettings::of(&config, tables).map_err(one)?;
    let overrides = config.list("receive_override_options").map_err(one)?;
    // These are cleanup's parameters: what the service sets does not count.
    let checks = match overrides.iter().any(|word| word == "no_header_body_checks") {
        true => None,
        false => CheckLists::of(whole, tables, filter::checks::Lists::Message).map_err(one)?,
    };
    let tls = tls::service(&config, tables)?;
    let mut warnings = Vec::new();
    let at_once = match service.max_processes {
        Some(0) => usize::MAX,
        Some(limit) => limit as usize,
        None => positive(&config, "default_process_limit").map_err(one)?,
    };
    let sasl = sasl::service(&config, tables, at_once, &mut warnings).map_err(one)?;
    for warning in warnings {
        remarks.add(&service.id(), warning);
    }
    let router = Arc::new(Router::new(&config, tables, own.to_vec()).map_err(one)?);
    let incoming = incoming(&config, tables).map_err(one)?;
    let settings = SmtpSettings {
        count_commands: incoming.limits.on_commands(),
        tls: tls.level,
        tls_ready: tls.tls.is_some(),
        sasl: sasl.is_some(),
        ask_unknown: milters.is_some(),
        ..smtp_settings(&config).map_err(one)?
    };
    let lenient = SmtpSettings {
        forbid_bare_newline: BareNewline::No,
        ..settings.clone()
    };
    let exclusions = config.string("smtpd_forbid_bare_newline_exclusions");
    Ok(Smtpd {
        policy: Policy::new(&config, tables, router, own.to_vec()).map_err(one)?,
        incoming,
        lenient_clients: tables.network_list(&exclusions.map_err(one)?),
        settings: Arc::new(settings),
        lenient: Arc::new(lenient),
        room: Room::of(whole, service).map_err(one)?,
        service: service.clone(),
        log_name: log::Name::new(&config.string("syslog_name").map_err(one)?, "smtpd"),
        tls,
        sasl,
        milters: milters.map(Arc::new),
        checks: checks.map(Arc::new),
    })
}

fn incoming(config: &Config, tables: &Tables) -> Result<Incoming, ConfigError> {
    let overrides = config.list("receive_override_options")?;
    let drop_headers = config.list("message_drop_headers")?;
    let parents = config.list("parent_domain_matches_subdomains")?;
    Ok(Incoming {
        myhostname: config.string("myhostname")?,
        mail_name: config.string("mail_name")?,
        hopcount_limit: positive(config, "hopcount_limit")?,
        enable_original_recipient: config.bool("enable_original_recipient")?,
        map_addresses: !overrides
            .iter()
            .any(|option| option == "no_address_mappings"),
        limits: Limits::of(config, tables)?,
        content_filter: config.string("content_filter")?,
        filter_nexthop: config.string("default_filter_nexthop")?,
        command_filter: tables.open_list_lenient(&config.string("smtpd_command_filter")?),
        xclient_hosts: HostList::new(config, tables, "smtpd_authorized_xclient_hosts")?,
        xforward_hosts: HostList::new(config, tables, "smtpd_authorized_xforward_hosts")?,
        peername_lookup: config.bool("smtpd_peername_lookup")?,
        port_logging: config.bool("smtpd_client_port_logging")?,
        fast_flush_domains: tables.match_list(
            &config.string("fast_flush_domains")?,
            parents.iter().any(|name| name == "fast_flush_domains"),
        ),
        show_tls: config.bool("smtpd_tls_received_header")?,
        add_missing_headers: config.bool("always_add_missing_headers")?,
        header_limit: positive(config, "header_size_limit")?,
        drop_headers: drop_headers
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
    })
}

fn smtp_settings(config: &Config) -> Result<SmtpSettings, ConfigError> {
    let bytes = |name: &str| -> Result<u64, ConfigError> {
        Ok(u64::try_from(config.int(name)?).unwrap_or(0))
    };
    let keywords = config.list("smtpd_discard_ehlo_keywords")?;
    // The regular expressions in this list are told apart by their braces and colons.
    let forbidden = config.list("smtpd_forbidden_commands")?;
    let (patterns, forbidden): (Vec<_>, Vec<_>) =
        forbidden.into_iter().partition(|word| word.contains(':'));
    Ok(SmtpSettings {
        hostname: config.string("myhostname")?,
        banner: config.string("smtpd_banner")?,
        message_size_limit: bytes("message_size_limit")?,
        line_length_limit: positive(config, "line_length_limit")?,
        recipient_limit: positive(config, "smtpd_recipient_limit")?,
        recipient_overshoot_limit: positive(config, "smtpd_recipient_overshoot_limit")?,
        soft_error_limit: positive(config, "smtpd_soft_error_limit")?,
        hard_error_limit: positive(config, "smtpd_hard_error_limit")?,
        error_sleep_time: config.time("smtpd_error_sleep_time")?,
        junk_command_limit: positive(config, "smtpd_junk_command_limit")?,
        timeout: config.time("smtpd_timeout")?,
        per_request_deadline: config.bool("smtpd_per_request_deadline")?,
        min_data_rate: bytes("smtpd_min_data_rate")?,
        helo_required: config.bool("smtpd_helo_required")?,
        strict_rfc821_envelopes: config.bool("strict_rfc821_envelopes")?,
        disable_vrfy_command: config.bool("disable_vrfy_command")?,
        smtputf8_enable: config.bool("smtputf8_enable")?,
        strict_smtputf8: config.bool("strict_smtputf8")?,
        filter_commands: !config.string("smtpd_command_filter")?.is_empty(),
        soft_bounce: config.bool("soft_bounce")?,
        footer: crate::footer::footer(config)?,
        ipv6: config
            .list("inet_protocols")?
            .iter()
            .any(|name| name == "all" || name == "ipv6"),
        allow_min_user: config.bool("allow_min_user")?,
        resolve_null_domain: config.bool("resolve_null_domain")?,
        resolve_numeric_domain: config.bool("resolve_numeric_domain")?,
        discard_ehlo_keywords: keywords
            .iter()
            .filter_map(|word| Keyword::of(word))
            .collect(),
        forbidden_commands: forbidden,
        forbid_leading_non_letter: !patterns.is_empty(),
        noop_commands: config.list("smtpd_noop_commands")?,
        forbid_bare_newline: bare_newline(config)?,
        forbid_bare_newline_reject_code: u16::try_from(
            config.int("smtpd_forbid_bare_newline_reject_code")?,
        )
        .unwrap_or(550),
        forbid_unauth_pipelining: config.bool("smtpd_forbid_unauth_pipelining")?,
        replace_stray_cr: config.bool("cleanup_replace_stray_cr_lf")?,
        tls_auth_only: config.bool("smtpd_tls_auth_only")?,
        broken_sasl_auth_clients: config.bool("broken_sasl_auth_clients")?,
        sasl_response_limit: positive(config, "smtpd_sasl_response_limit")?,
        ..SmtpSettings::default()
    })
}

fn bare_newline(config: &Config) -> Result<BareNewline, ConfigError> {
    let name = "smtpd_forbid_bare_newline";
    let value = config.string(name)?;
    match value.trim().to_ascii_lowercase().as_str() {
        "no" | "note" => Ok(BareNewline::No),
        "yes" | "normalize" => Ok(BareNewline::Normalize),
        "reject" => Ok(BareNewline::Reject),
        _ => Err(ConfigError::new(
            "unknown way to treat bare newlines",
            "use one of: no, note, normalize, yes, reject",
        )
        .at(config.origin(name))
        .parameter(name)
        .value(&value)),
    }
}

fn schedule(config: &Config) -> Result<ScheduleSettings, ConfigError> {
    let warning = config.time("delay_warning_time")?;
    Ok(ScheduleSettings {
        minimal_backoff: config.time("minimal_backoff_time")?,
        maximal_backoff: config.time("maximal_backoff_time")?,
        queue_lifetime: config.time("maximal_queue_lifetime")?,
        bounce_lifetime: config.time("bounce_queue_lifetime")?,
        delay_warning: (!warning.is_zero()).then_some(warning),
    })
}

/// Transports whose lines bear a name of their own, as the stock master.cf gives `relay`.
fn log_names(config: &Config) -> Result<HashMap<String, log::Name>, ConfigError> {
    let mut names = HashMap::new();
    for service in config.services() {
        let own = |(name, _): &(String, String)| name == "syslog_name";
        if service.kind == ServiceKind::Unix && service.overrides.iter().any(own) {
            let name = config.for_service(service).string("syslog_name")?;
            let name = log::Name::new(&name, &service.command);
            names.insert(service.name.clone(), name);
        }
    }
    Ok(names)
}

fn spool(config: &Config) -> Result<SpoolSettings, ConfigError> {
    let owner = config.string("mail_owner")?;
    // Not every machine has Postfix's user; without it the queue stays root's.
    let owner = match nix::unistd::geteuid().is_root() {
        true => nix::unistd::User::from_name(&owner).ok().flatten(),
        false => None,
    };
    Ok(SpoolSettings {
        directory: PathBuf::from(config.string("queue_directory")?),
        options: queue::Options {
            min_free: min_free(config)?,
            owner: owner.map(|user| (user.uid.as_raw(), user.gid.as_raw())),
            ..queue::Options::default()
        },
    })
}

/// `queue_minfree`, at least one and a half of the largest message, as postconf(5) has it.
fn min_free(config: &Config) -> Result<u64, ConfigError> {
    let bytes = |name: &str| {
        config
            .int(name)
            .map(|value| u64::try_from(value).unwrap_or(0))
    };
    let largest = bytes("message_size_limit")?;
    Ok(bytes("queue_minfree")?.max(largest.saturating_add(largest / 2)))
}

/// A number; zero and less mean no limit.
pub(crate) fn positive(config: &Config, name: &str) -> Result<usize, ConfigError> {
    let value = config.int(name)?;
    Ok(usize::try_from(value)
        .ok()
        .filter(|&limit| limit > 0)
        .unwrap_or(usize::MAX))
}

/// The configuration in force.
pub(crate) struct Current(RwLock<Arc<Generation>>);

impl Current {
    pub fn new(generation: Generation) -> Current {
        Current(RwLock::new(Arc::new(generation)))
    }

    pub fn get(&self) -> Arc<Generation> {
        Arc::clone(
            &self
                .0
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    pub fn set(&self, generation: Generation) {
        let new = Arc::new(generation);
        *self
            .0
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = new;
    }
}
