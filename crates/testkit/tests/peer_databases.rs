//! The database servers start, stop, come back and tell what reached them.

use testkit::{IspMail, MariaDb, MariaDbOptions, Postgres, TempDir, sqlite};

#[test]
fn mariadb_serves_stops_and_returns_with_its_data() {
    if !testkit::peers() {
        return;
    }
    let mut server = MariaDb::with(MariaDbOptions {
        sql_mode: Some("ANSI_QUOTES".into()),
        ..Default::default()
    });
    server.create_db("mail");
    server.create_user("reader", "p'w\\1", "mail");
    server.run_sql("mail", &IspMail::sample().sql());
    assert_eq!(
        server.run_sql("", "SELECT @@global.sql_mode").trim(),
        "ANSI_QUOTES"
    );
    assert!(
        server
            .try_sql("mail", "SELEC")
            .unwrap_err()
            .contains("syntax")
    );
    server.general_log(true);
    server.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port)).is_err());
    server.start_again();
    assert_eq!(
        server
            .run_sql("mail", "SELECT COUNT(*) FROM virtual_users")
            .trim(),
        "4"
    );
    server.kill();
    server.start_again();
    assert!(server.status("Questions") > 0);
    server.general_log(true);
    assert_eq!(server.take_statements("nobody"), Vec::<String>::new());
}

#[test]
fn postgres_serves_stops_and_returns_with_its_data() {
    if !testkit::peers() {
        return;
    }
    let mut server = Postgres::start();
    server.create_db("mail");
    server.run_sql("mail", &IspMail::sample().sql());
    server.create_user("reader", "p'w", "mail");
    server.stop();
    assert!(server.try_sql("mail", "SELECT 1").is_err());
    server.start_again();
    server.kill();
    server.start_again();
    assert_eq!(
        server
            .run_sql("mail", "SELECT COUNT(*) FROM virtual_users")
            .trim(),
        "4"
    );
    assert!(server.socket_dir_5432().join(".s.PGSQL.5432").exists());
}

#[test]
fn sqlite_takes_the_same_schema() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("mail.db");
    sqlite(&file, &IspMail::sample().sql());
    assert_eq!(sqlite(&file, "SELECT COUNT(*) FROM virtual_aliases"), "5\n");
}
