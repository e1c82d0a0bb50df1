//! The engines below and before callbackd, as Debian ships them: etcd, three PostgreSQL under Patroni, one PostgreSQL
//! behind PgBouncer, HAProxy. Each is a process of this test, or a machine of its own: a namespace of processes, which
//! dies all at once.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{URL_OF_ALL, within};
use crate::stores::postgres::wait;

const ETCD: &str = "127.0.0.1:2379";

/// A process, killed when dropped; its output goes to a file.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// As the user that Debian's PostgreSQL runs as.
    fn start(log: &Path, before: &[&str], program: &[&str]) -> Process {
        const AS: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let line: Vec<&str> = before.iter().chain(&AS).chain(program).copied().collect();
        let file = fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir("/").env_remove("PYTHONPATH").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{line:?}: {e}"));
        Process { child, log: log.to_owned() }
    }

    /// A machine of its own, as far as processes go: whoever kills it kills all of it at one instant.
    fn machine(log: &Path, program: &str) -> Process {
        let within = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "bash", "-c"];
        // The first process there stays root: a signal at its parent's death is not for one who has changed its user.
        let script = format!("setpriv --reuid=postgres --regid=postgres --clear-groups {program} & wait $!; wait");
        let file = fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(within[0]);
        command.args(&within[1..]).arg(script).current_dir("/").env_remove("PYTHONPATH").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        Process { child: command.spawn().expect("unshare"), log: log.to_owned() }
    }

    fn signal(&self, name: &str) {
        signal(&[], name, &self.child.id().to_string());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {}\n{}", self.log.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// Signals a process, as whoever is `within`.
fn signal(within: &[&str], name: &str, pid: &str) {
    // A shell's own, which takes -1 for everybody.
    let kill = format!("kill -s {name} -- {pid}");
    let line = [within, &["bash", "-c", &kill]].concat();
    assert!(Command::new(line[0]).args(&line[1..]).status().expect("kill").success(), "{line:?}");
}

/// A folder of the user that PostgreSQL runs as.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("callbackd-cluster.").expect("a folder");
    let done = Command::new("chown").args(["postgres:postgres"]).arg(folder.path()).status().expect("chown");
    assert!(done.success(), "there is no user postgres");
    folder
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn bin() -> String {
    std::env::var("CALLBACKD_TEST_POSTGRES_BIN").expect("what tests/peers/cluster.sh sets")
}

/// Runs a statement, once; the first number that it answers.
pub(super) fn sql(url: &str, statement: &str) -> Result<Option<i64>, String> {
    let ask = async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        let driven = tokio::spawn(connection);
        let said = client.simple_query(statement).await;
        driven.abort();
        said
    };
    let said = wait(async { tokio::time::timeout(Duration::from_secs(10), ask).await });
    let said = said.map_err(|_| "no answer".to_owned())?.map_err(|e| format!("{e:?}"))?;
    Ok(said.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).and_then(|text| text.parse().ok()),
        _ => None,
    }))
}

/// What is answered to a GET: status and body.
pub(super) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address.parse().expect("an address"), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: cluster\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Three nodes and etcd.
pub(super) struct Patroni {
    nodes: [Option<Process>; 3],
    etcd: Option<Process>,
    folder: TempDir,
}

impl Patroni {
    /// Starts all of it, and waits until the leader has two standbys, one of them synchronous.
    pub(super) fn start() -> Patroni {
        let mut patroni = Patroni { nodes: [None, None, None], etcd: None, folder: folder() };
        for node in 0..3 {
            patroni.configure(node);
        }
        patroni.start_etcd();
        (0..3).for_each(|node| patroni.start_node(node));
        patroni.is_whole();
        let leader = patroni.leader().expect("a leader");
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", 7001 + leader);
        for statement in ["CREATE ROLE callbackd LOGIN", "CREATE DATABASE callbackd OWNER callbackd"] {
            sql(&url, statement).expect("made");
        }
        patroni
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, node: usize) {
        let (name, folder, bin) = (node + 1, self.folder.path().display(), bin());
        // As quick as Patroni allows: loop_wait + 2 * retry_timeout <= ttl.
        let text = format!(
            "scope: callbackd\nname: n{name}\nrestapi: {{ listen: '127.0.0.1:800{name}', connect_address: '127.0.0.1:800{name}' }}\n\
             etcd3: {{ host: '{ETCD}' }}\nbootstrap:\n  dcs:\n    ttl: 8\n    loop_wait: 1\n    retry_timeout: 3\n    \
             synchronous_mode: true\n    primary_start_timeout: 5\n    master_start_timeout: 5\n    postgresql:\n      \
             use_pg_rewind: true\n      parameters: {{ max_connections: 100, min_wal_size: 32MB, max_wal_size: 256MB, \
             wal_keep_size: 256MB, shared_buffers: 32MB, hot_standby_feedback: 'on', log_checkpoints: 'off' }}\n  \
             initdb: [{{ encoding: UTF8 }}, {{ locale: C.UTF-8 }}, no-sync]\n\
             postgresql:\n  listen: '0.0.0.0:700{name}'\n  connect_address: '127.0.0.1:700{name}'\n  data_dir: '{folder}/n{name}'\n  \
             bin_dir: '{bin}'\n  pgpass: '{folder}/n{name}.pgpass'\n  authentication:\n    superuser: {{ username: postgres, password: p }}\n    \
             replication: {{ username: replicator, password: p }}\n    rewind: {{ username: rewinder, password: p }}\n  \
             parameters: {{ unix_socket_directories: '{folder}' }}\n  basebackup: [{{ checkpoint: fast }}, no-sync]\n  \
             pg_hba: ['local all all trust', 'host all all 0.0.0.0/0 trust', 'host replication all 0.0.0.0/0 trust']\n"
        );
        fs::write(self.path(&format!("n{name}.yml")), text).expect("written");
    }

    pub(super) fn start_etcd(&mut self) {
        let data = self.path("etcd").display().to_string();
        let (at, peers) = (format!("http://{ETCD}"), "http://127.0.0.1:2380");
        let line = ["etcd", "--data-dir", &data, "--listen-client-urls", &at, "--advertise-client-urls", &at];
        let line = [&line[..], &["--listen-peer-urls", peers, "--logger", "zap", "--log-level", "warn"]].concat();
        self.etcd = Some(Process::start(&self.path("etcd.log"), &[], &line));
    }

    pub(super) fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    pub(super) fn start_node(&mut self, node: usize) {
        let name = format!("n{}", node + 1);
        // It names a process of the namespace that died; in the new one, that may be anybody.
        let _ = fs::remove_file(self.path(&format!("{name}/postmaster.pid")));
        let program = format!("patroni {}", self.path(&format!("{name}.yml")).display());
        self.nodes[node] = Some(Process::machine(&self.path(&format!("{name}.log")), &program));
    }

    /// The machine dies: Patroni, and every process of PostgreSQL.
    pub(super) fn kill_node(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Stops every process of it, as a hypervisor or a disk that hangs would: its kernel still answers. Or lets them go on.
    pub(super) fn stop_node(&self, node: usize, name: &str) {
        signal(&["nsenter", "--pid", "--target", &self.first(node)], name, "-1");
    }

    /// Kills PostgreSQL there, as the kernel does where memory is short; Patroni lives.
    pub(super) fn kill_postgres(&self, node: usize) {
        let file = self.path(&format!("n{}/postmaster.pid", node + 1));
        let pid = fs::read_to_string(file).expect("it runs").lines().next().expect("a line").to_owned();
        // Its own number is of the namespace that its parent has made.
        signal(&["nsenter", "--pid", "--target", &self.first(node)], "KILL", &pid);
    }

    /// The first process of a node's namespace.
    fn first(&self, node: usize) -> String {
        let outside = self.nodes[node].as_ref().expect("it runs").child.id();
        let children = format!("/proc/{outside}/task/{outside}/children");
        fs::read_to_string(children).expect("a process").trim().to_owned()
    }

    /// What Patroni says of its members, whoever answers.
    pub(super) fn members(&self) -> Vec<Value> {
        let mut said = (0..3).filter_map(|node| get(&format!("127.0.0.1:{}", 8001 + node), "/cluster"));
        let parsed = said.find_map(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        parsed.and_then(|all| all["members"].as_array().cloned()).unwrap_or_default()
    }

    /// Who can be written now.
    pub(super) fn leader(&self) -> Option<usize> {
        (0..3).find(|node| {
            get(&format!("127.0.0.1:{}", 8001 + node), "/primary").is_some_and(|(status, _)| status == 200)
        })
    }

    /// What the leader and its synchronous standby are called.
    pub(super) fn leader_and_synchronous(&self) -> (String, String) {
        let members = self.members();
        let name = |role: &str| {
            let member = members.iter().find(|member| member["role"] == role);
            member
                .and_then(|member| member["name"].as_str())
                .unwrap_or_else(|| panic!("no {role}: {members:?}"))
                .to_owned()
        };
        (name("leader"), name("sync_standby"))
    }

    /// Waits until there are a leader, a synchronous standby and another standby, all of whom follow.
    pub(super) fn is_whole(&self) {
        within(90, "a whole cluster", || {
            let members = self.members();
            let count = |role: &str, state: &str| {
                members.iter().filter(|member| member["role"] == role && member["state"] == state).count()
            };
            let standbys: Vec<_> =
                ["running", "streaming"].map(|state| (count("sync_standby", state), count("replica", state))).into();
            let (sync, others) = standbys.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (count("leader", "running") == 1 && sync == 1 && others == 1).then_some(())
        });
    }

    /// `patronictl`, as an operator would.
    pub(super) fn control(&self, args: &[&str]) -> String {
        let config = self.path("n1.yml");
        let mut command = Command::new("patronictl");
        command
            .arg("-c")
            .arg(&config)
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PYTHONPATH")
            .stdin(Stdio::null());
        let done = command.output().expect("patronictl");
        let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(done.status.success(), "patronictl {args:?}: {said}");
        said
    }

    /// Ends, at this node, every wait for a standby: how many waited.
    pub(super) fn end_waiting(&self, node: usize) -> i64 {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", 7001 + node);
        let end = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        sql(&url, end).expect("it answers").unwrap_or(0)
    }

    /// Ends every connection of callbackd at the leader; how many there were.
    pub(super) fn cut(&self) -> i64 {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'callbackd'";
        sql(&URL_OF_ALL.replace("callbackd@", "postgres@"), cut).ok().flatten().unwrap_or(0)
    }
}

/// HAProxy, with this configuration.
pub(super) fn haproxy(folder: &Path, text: &str) -> Process {
    let path = folder.join("haproxy.cfg");
    fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    let done = Command::new("haproxy").args(["-c", "-q", "-f", &path]).status().expect("haproxy");
    assert!(done.success(), "{text}");
    Process::start(&folder.join("haproxy.log"), &[], &["haproxy", "-db", "-f", &path])
}

/// One PostgreSQL, and a PgBouncer before it that pools by transaction.
pub(super) struct Single {
    postgres: Option<Process>,
    pgbouncer: Option<Process>,
    folder: TempDir,
}

impl Single {
    pub(super) const URL: &'static str = "postgres://callbackd@127.0.0.1:6432/callbackd";
    pub(super) const DIRECT_AS_CALLBACKD: &'static str = "postgres://callbackd@127.0.0.1:7010/callbackd";
    const DIRECT: &'static str = "postgres://postgres@127.0.0.1:7010/postgres";

    pub(super) fn start() -> Single {
        let mut single = Single { postgres: None, pgbouncer: None, folder: folder() };
        let (bin, data) = (bin(), single.folder.path().join("data").display().to_string());
        let initdb = format!("{bin}/initdb");
        let line = [&initdb, "-D", &data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"];
        let mut made = Process::start(&single.folder.path().join("initdb.log"), &[], &line);
        assert!(made.child.wait().expect("initdb").success());
        drop(made);
        single.start_postgres();
        for statement in ["CREATE ROLE callbackd LOGIN", "CREATE DATABASE callbackd OWNER callbackd"] {
            sql(Single::DIRECT, statement).expect("made");
        }
        single.start_pgbouncer();
        single
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start_postgres(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (program, data, sockets) = (format!("{}/postgres", bin()), path("data"), path(""));
        let line = [&program, "-D", &data, "-k", &sockets, "-p", "7010", "-c", "max_connections=60"];
        let log = self.folder.path().join("postgres.log");
        let mut running = Process::start(&log, &[], &line);
        within(60, "the server", || {
            // While a process of one that was killed is left, it does not start.
            if running.child.try_wait().expect("waited for").is_some() {
                running = Process::start(&log, &[], &line);
            }
            sql(Single::DIRECT, "SELECT 1").ok()
        });
        self.postgres = Some(running);
    }

    /// The server's first process dies; the others notice.
    pub(super) fn kill_postgres(&mut self) {
        self.postgres = None;
    }

    pub(super) fn start_pgbouncer(&mut self) {
        let path = self.folder.path().join("pgbouncer.ini");
        let text = "[databases]\n* = host=127.0.0.1 port=7010 user=callbackd\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                    listen_port = 6432\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
                    default_pool_size = 12\nmax_client_conn = 200\nserver_login_retry = 1\n";
        fs::write(&path, text).expect("written");
        let line = ["pgbouncer", "-q", &path.display().to_string()];
        self.pgbouncer = Some(Process::start(&self.folder.path().join("pgbouncer.log"), &[], &line));
    }

    /// As `systemctl restart` does it: whoever is connected is cut.
    pub(super) fn restart_pgbouncer(&mut self) {
        if let Some(mut running) = self.pgbouncer.take() {
            running.signal("TERM");
            let _ = running.child.wait();
        }
        self.start_pgbouncer();
    }

    /// Whether somebody holds the run's row who does nothing.
    pub(super) fn is_held(&self, run: &str) -> bool {
        let url = Single::DIRECT_AS_CALLBACKD;
        let free = format!(
            "SELECT count(*) FROM (SELECT 1 FROM execution_heads WHERE key = '{run}' FOR UPDATE SKIP LOCKED) AS free"
        );
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        let ask = |statement: &str| sql(url, statement).ok().flatten();
        ask(idle).is_some_and(|count| count > 0) && ask(&free) == Some(0) && ask(idle).is_some_and(|count| count > 0)
    }

    pub(super) fn cut(&self) -> i64 {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'callbackd'";
        sql(Single::DIRECT, cut).ok().flatten().unwrap_or(0)
    }
}
