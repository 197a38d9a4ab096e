//! Tables that are made of tables: whatever the members, a list, a union and a pipe answer as the fold of what the members
//! answer by themselves.

use config::Config;
use postroom_tables::{Answer, Tables};
use proptest::prelude::*;

/// A member: `fail:`, or some of the keys a to d with values that are such keys, or empty.
fn member() -> impl Strategy<Value = String> {
    let entry = ("[a-d]", "[a-dx]?");
    prop_oneof![
        1 => Just("fail:x".to_string()),
        1 => "[a-d]".prop_map(|value| format!("static:{value}")),
        6 => prop::collection::vec(entry, 1..4).prop_map(|entries| {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("inline:{{{}}}", entries.join(","))
        }),
    ]
}

fn ask(tables: &Tables, spec: &str, key: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(tables.open(spec)?.lookup(key))
}

/// The answers without the words of errors, which name the table.
fn plain(answer: Answer) -> Result<Option<String>, ()> {
    answer.map_err(|_| ())
}

proptest! {
    #[test]
    fn answers_are_folds(members in prop::collection::vec(member(), 1..5), key in "[a-dA-D]") {
        let tables = Tables::new(&Config::from_text("", "").expect("a configuration"));
        let alone = |spec: &String, key: &str| plain(ask(&tables, spec, key));

        // The first hit or failure.
        let first = members.iter().map(|spec| alone(spec, &key)).find(|answer| answer != &Ok(None));
        let list = tables.open_list(&members.join(", ")).expect("tables");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        prop_assert_eq!(plain(runtime.block_on(list.lookup(&key))), first.unwrap_or(Ok(None)));

        // All hits with commas between, nothing before the first that is not empty.
        let all: Result<Vec<_>, ()> = members.iter().map(|spec| alone(spec, &key)).collect();
        let union = all.map(|answers| {
            let values: Vec<String> = answers.into_iter().flatten().collect();
            let used = values.into_iter().skip_while(String::is_empty).collect::<Vec<_>>();
            (!used.is_empty()).then(|| used.join(","))
        });
        let spec = format!("unionmap:{{{}}}", members.join(","));
        prop_assert_eq!(plain(ask(&tables, &spec, &key)), union);

        // Each value is the next key.
        let pipe = members.iter().try_fold(Some(key.clone()), |key, spec| match key {
            Some(key) => alone(spec, &key),
            None => Ok(None),
        });
        let spec = format!("pipemap:{{{}}}", members.join(","));
        prop_assert_eq!(plain(ask(&tables, &spec, &key)), pipe);
    }
}
