//! `postroom check`: what is wrong in configuration and database, or will surprise, each with its remedy.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::effects;
use config::master::ServiceKind;
use config::params::Effect;
use config::{Config, Environment};
use directory::{Finding, Options, Place, Report, Severity};
use policy::explain::{Explainer, Outcome};
use server::{Generation, own_addresses};

use super::options::{self, EX_CONFIG, EX_USAGE};

const USAGE: &str = "usage: postroom check [-c config_dir] [--json] [--all]
       postroom check [-c config_dir] --settings
Reads configuration and database and reports what is wrong or will surprise, each with place,
consequence and remedy. It changes nothing. --all: every finding, not only the first 20 of a kind.
--settings: what becomes of each setting and service, and nothing else.
Exit status: 0 without errors (there may be warnings and notes), 1 with errors.
";

/// What the arguments ask for.
struct Request {
    config_dir: PathBuf,
    json: bool,
    all: bool,
    settings: bool,
}

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let request = match parse(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("postroom check: {problem}\n{USAGE}");
            return ExitCode::from(EX_USAGE);
        }
    };
    if request.settings {
        return settings(&request);
    }
    // Lookups log what fails; the report says it with the remedy, so no log is set up here.
    match report(&request) {
        Ok(report) => {
            match request.json {
                true => println!("{:#}", json(&report)),
                false => print!("{report}"),
            }
            ExitCode::from(u8::from(report.count(Severity::Error) > 0))
        }
        Err(problem) => {
            eprintln!("postroom: fatal: {problem}");
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Option<Request>, String> {
    let mut request = Request {
        config_dir: options::default_config_dir(),
        json: false,
        all: false,
        settings: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-c") => {
                let folder = args.next().ok_or("-c needs a folder")?;
                request.config_dir = PathBuf::from(folder);
            }
            Some("--json") => request.json = true,
            Some("--all") => request.all = true,
            Some("--settings") => request.settings = true,
            Some("-h" | "--help") => return Ok(None),
            _ => return Err(format!("unexpected argument {}", arg.display())),
        }
    }
    Ok(Some(request))
}

/// Every setting and service by what becomes of it.
fn settings(request: &Request) -> ExitCode {
    let environment = Environment::of_this_machine();
    let dir = absolute(&request.config_dir);
    let (config, mistakes) = Config::load_whole(&dir, &environment);
    for mistake in &mistakes {
        eprintln!("postroom: warning: {mistake}");
    }
    let mut all = effects::settings(&config);
    all.extend(effects::services(&config));
    let mut out = String::new();
    for (title, rank) in [
        ("not supported", 2),
        ("without effect here, and harmless", 1),
        ("honoured", 0),
    ] {
        let told: Vec<_> = all.iter().filter(|t| rank_of(t.effect) == rank).collect();
        if told.is_empty() {
            continue;
        }
        out.push_str(&format!("{title}\n"));
        for told in told {
            let origin = &told.origin;
            out.push_str(&format!("  {}  {origin}\n", told.name));
            if let Effect::Harmless(text) | Effect::Missing(text) = told.effect {
                out.push_str(&format!("    {text}\n"));
            }
        }
    }
    print!("{out}");
    ExitCode::SUCCESS
}

fn rank_of(effect: Effect) -> u8 {
    match effect {
        Effect::Honoured => 0,
        Effect::Harmless(_) => 1,
        Effect::Missing(_) => 2,
    }
}

/// The report as JSON; docs/check.md has its shape.
fn json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "version": 1,
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "notes": report.count(Severity::Note),
        "looked_at": report.looked_at,
        "findings": report.findings,
    })
}

fn report(request: &Request) -> Result<Report, String> {
    let environment = Environment::of_this_machine();
    let dir = absolute(&request.config_dir);
    let mut report = Report::default();
    let (config, mistakes) = Config::load_whole(&dir, &environment);
    for mistake in &mistakes {
        report.add(unreadable(mistake, &dir));
    }
    if mistakes.iter().any(whole_file) {
        // Without it there is nothing else to look at.
        return Ok(report);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let own = own_addresses(&config, &environment).map_err(|error| error.to_string())?;
    let options = match request.all {
        true => Options { limit: usize::MAX },
        false => Options::default(),
    };
    let found = runtime.block_on(directory::check(&config, own, options));
    report.looked_at = found.looked_at;
    found
        .findings
        .into_iter()
        .for_each(|finding| report.add(finding));
    if report.may_look_up() {
        runtime.block_on(relays(&config, &environment, &mut report));
    }
    at_start(&config, &environment, &mut report);
    report.sort();
    Ok(report)
}

/// Findings name files from the root, wherever the command was started.
fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

/// The mistake is about a file, not about a line of it.
fn whole_file(mistake: &config::ConfigError) -> bool {
    mistake
        .origin
        .as_ref()
        .is_none_or(|origin| origin.line == 0)
}

fn unreadable(mistake: &config::ConfigError, dir: &Path) -> Finding {
    let place = Place::origin(mistake.origin.clone(), dir);
    Finding::new(
        Severity::Error,
        "configuration-unreadable",
        place,
        mistake.problem.clone(),
    )
    .so("neither Postfix nor Postroom starts with it")
    .remedy(mistake.remedy.clone())
}

/// Asks each SMTP service, as the server would, whether a stranger may send to strangers.
async fn relays(config: &Config, environment: &Environment, report: &mut Report) {
    let strangers = [
        // Documentation addresses are nobody's clients (RFC 5737, RFC 3849).
        IpAddr::from([192, 0, 2, 1]),
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ];
    for service in config.services() {
        if service.kind != ServiceKind::Inet || service.command != "smtpd" {
            continue;
        }
        // What is wrong with the restrictions is told by `at_start`.
        let Ok(explainer) = Explainer::by(&config.for_service(service), environment) else {
            continue;
        };
        for client in strangers {
            let explained = explainer
                .explain(
                    "postroom-check@elsewhere.invalid",
                    "sender@elsewhere.invalid",
                    client,
                )
                .await;
            if explained.outcome() != Outcome::Accepted {
                continue;
            }
            let place = service_place(config, &service.id());
            let finding = Finding::new(
                Severity::Error,
                "open-relay",
                place,
                format!("the service takes mail from {client}, a stranger, for a stranger"),
            )
            .so("anybody can send mail through this server; it will be on block lists within hours")
            .remedy("put reject_unauth_destination into smtpd_relay_restrictions behind the permits, and only your own networks into mynetworks; `postroom explain --client ADDRESS` shows the decision");
            report.add(finding);
            break;
        }
    }
}

fn service_place(config: &Config, id: &str) -> Place {
    let service = config.services().iter().find(|service| service.id() == id);
    Place {
        line: service.map(|service| service.line),
        ..Place::file(config.dir().join("master.cf"))
    }
    .parameter(id)
}

/// What `postroom serve` would refuse to start with, or warn of.
fn at_start(config: &Config, environment: &Environment, report: &mut Report) {
    let main_cf = || Place::file(config.dir().join("main.cf"));
    match Generation::build(config.clone(), environment) {
        Err(problems) => {
            for problem in problems {
                let finding = match problem.mistake() {
                    Some(mistake) => directory::mistaken(config, mistake),
                    None => Finding::new(
                        Severity::Error,
                        "setting-wrong",
                        main_cf(),
                        problem.to_string(),
                    )
                    .so("`postroom serve` refuses to start, or to take the change over"),
                };
                if !report.findings.contains(&finding) {
                    report.add(finding);
                }
            }
        }
        Ok(generation) => {
            let told = config.warnings();
            for warning in generation
                .warnings()
                .iter()
                .filter(|text| !told.contains(text))
            {
                // `service smtp/inet: what is not there`
                let service = warning
                    .strip_prefix("service ")
                    .and_then(|rest| rest.split_once(": "));
                let (place, text) = match service {
                    Some((id, text)) => (service_place(config, id), text),
                    None => (main_cf(), warning.as_str()),
                };
                let finding = Finding::new(Severity::Warning, "not-served", place, text.to_owned());
                report.add(
                    finding
                        .so("`postroom serve` says so at its start, and goes on without it")
                        .remedy("see docs/configuration.md for what there is in its place"),
                );
            }
        }
    }
}
