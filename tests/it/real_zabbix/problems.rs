//! From a failed callback to somebody's alert and back, through a real Zabbix: started and named in the environment by
//! `tests/peers/zabbix.sh`, which runs what is ignored here.

use std::path::Path;
use std::process::{Command, Output};

use callbackd::app::Running;
use callbackd::config::{Config, Environment};
use callbackd::model::Time;
use callbackd::outbound::{Client, Settings};
use callbackd::secret::Secret;
use callbackd::sinks::zabbix::api::{Api, Credential, read_url};
use callbackd::store::Filter;
use serde_json::{Value, json};

use crate::peers::scripted::{Act, Scripted, send};
use crate::rig::until;
use crate::wire::{connect, post};

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run tests/peers/zabbix.sh"))
}

/// The real one, as Zabbix's super administrator sees it.
struct Real(Api);

impl Real {
    fn new() -> Real {
        let client = Client::new(&Settings::default()).expect("a client");
        let token = Credential::Token(Secret::new(env("ZABBIX_TOKEN")));
        Real(Api::new(client, read_url(&env("ZABBIX_URL")).expect("a URL"), token))
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        self.0.call(method, &params, Time::default()).await.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// The first of the ids that creating something has given.
    async fn create(&self, method: &str, params: Value, ids: &str) -> String {
        self.call(method, params).await[ids][0].as_str().expect(ids).to_owned()
    }

    /// A user of the group that the default action messages, whose messages are posted to `url`.
    async fn listen(&self, name: &str, url: &str) -> [(&'static str, String); 2] {
        let script = "var sent = JSON.parse(value), to = new HttpRequest();\
                      to.addHeader('Content-Type: application/json');\
                      to.post(sent.url, JSON.stringify(sent)); return 'OK';";
        let parameter = |name: &str, value: &str| json!({"name": name, "value": value});
        let media = json!({
            "type": 4, "name": name, "script": script,
            "parameters": [
                parameter("url", url), parameter("subject", "{ALERT.SUBJECT}"), parameter("message", "{ALERT.MESSAGE}"),
                parameter("thing", "{EVENT.TAGS.thing}"),
            ],
        });
        let media = self.create("mediatype.create", media, "mediatypeids").await;
        let groups = json!({"output": ["usrgrpid"], "filter": {"name": ["Zabbix administrators"]}});
        let group = self.call("usergroup.get", groups).await[0]["usrgrpid"].clone();
        let user = json!({
            "username": name, "passwd": "wr1tten-For-a-test", "roleid": "3", "usrgrps": [{"usrgrpid": group}],
            "medias": [{"mediatypeid": media.clone(), "sendto": ["anybody"]}],
        });
        let user = self.create("user.create", user, "userids").await;
        [("user.delete", user), ("mediatype.delete", media)]
    }

    /// What is open on that host, by name: event id and tag of the thing.
    async fn open(&self, host: &str) -> Vec<(String, String, String)> {
        let hosts = self.call("host.get", json!({"output": ["hostid"], "filter": {"host": [host]}})).await;
        let ids = json!([hosts[0]["hostid"]]);
        let params = json!({"output": ["eventid", "name"], "hostids": ids, "selectTags": "extend"});
        let problems = self.call("problem.get", params).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let thing = |tags: &Value| {
            let tags = tags.as_array().expect("tags");
            text(&tags.iter().find(|tag| tag["tag"] == "thing").expect("a thing")["value"])
        };
        let mut open: Vec<_> = problems
            .as_array()
            .expect("problems")
            .iter()
            .map(|problem| (text(&problem["name"]), text(&problem["eventid"]), thing(&problem["tags"])))
            .collect();
        open.sort();
        open
    }

    async fn until_open(&self, host: &str, names: &[&str]) -> Vec<(String, String, String)> {
        let mut last = Vec::new();
        let wait = until("these problems are open", async || {
            last = self.open(host).await;
            last.iter().map(|(name, ..)| name.as_str()).eq(names.iter().copied()).then(|| last.clone())
        });
        match tokio::time::timeout(crate::rig::PATIENCE * 3 / 4, wait).await {
            Ok(open) => open,
            Err(_) => panic!("{:#?} are open instead of {names:?}", self.open(host).await),
        }
    }
}

fn callbackd(config: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
    let Output { status, stdout, stderr } =
        command.args(arguments).arg("--config").arg(config).output().expect("callbackd runs");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!said.contains(&env("ZABBIX_TOKEN")), "the token is said");
    (status.success(), said)
}

/// The workflow has ended.
fn ended(run: &str, object: &str, state: &str) -> String {
    format!(
        "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>{run}</RunId>\
         <WorkflowId>w1</WorkflowId><WorkflowName>Transcode</WorkflowName><BucketId>bucket</BucketId>\
         <Object>{object}</Object><State>{state}</State><Tasks><Type>Transcode</Type><State>{state}</State>\
         <JobId>j-{run}</JobId><Name>step</Name></Tasks></WorkflowExecution></Response>"
    )
}

#[tokio::test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
async fn what_fails_is_a_problem_until_the_same_thing_succeeds() {
    let (real, folder) = (Real::new(), tempfile::tempdir().expect("a folder"));
    let (at, host) = (folder.path().display(), format!("callbackd problems {}", std::process::id()));
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let pager = Scripted::start(vec![vec![Act::Read, send(answer)]; 32]).await;
    let listener = real.listen(&host, &format!("http://{}/alert", pager.address())).await;

    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"unix:{at}/admin.sock\"\n\
         [store]\nurl = \"sqlite:{at}/callbackd.db\"\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"a-token\"\n\
         [sinks.zbx]\nkind = \"zabbix\"\nurl = {:?}\ntoken = {:?}\ntrapper = {:?}\nhost = {host:?}\n\
         retry_first = \"100ms\"\nretry_longest = \"300ms\"\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"zbx\"]\n",
        env("ZABBIX_URL"),
        env("ZABBIX_TOKEN"),
        env("ZABBIX_TRAPPER"),
    );
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, &text).expect("written");

    let (is_ready, said) = callbackd(&file, &["check", "--probe"]);
    assert!(!is_ready && said.contains("callbackd zabbix apply"), "{said}");
    let (is_applied, said) = callbackd(&file, &["zabbix", "apply"]);
    assert!(is_applied, "{said}");
    let (is_applied, said) = callbackd(&file, &["zabbix", "apply"]);
    assert!(is_applied && said.contains("nothing to do"), "{said}");
    let (is_ready, said) = callbackd(&file, &["check", "--probe"]);
    assert!(is_ready && said.contains("is ready; the trapper at"), "{said}");

    let environment = Environment::default();
    let config = Config::from_toml(&text, &environment).unwrap_or_else(|faults| panic!("{faults}"));
    let adapters = config.adapters(&environment).unwrap_or_else(|faults| panic!("{faults}"));
    let daemon = Running::start(&config, adapters).await.unwrap_or_else(|e| panic!("{e}"));
    let call_back = async |run: &str, object: &str, state: &str| {
        let request = post("/callbacks/media/a-token", &ended(run, object, state));
        let answer = connect(daemon.address()).await.ask(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let told = async || {
        until("everything is told", async || {
            let rows = daemon.store().deliveries(Filter::default()).await.expect("deliveries");
            rows.iter().all(|row| row.status.as_str() == "delivered").then_some(())
        })
        .await;
    };

    // The item is new: until Zabbix has read its configuration again, it takes nothing.
    const CLIP: &str = "Transcode: bucket/in/clip \'1\' {$M}.mp4 failed";
    const FILM: &str = "Transcode: bucket/in/游戏.mp4 failed";
    call_back("r1", "in/clip \"1\" {$M}.mp4", "Failed").await;
    call_back("r2", "in/游戏.mp4", "Failed").await;
    let open = real.until_open(&host, &[CLIP, FILM]).await;
    assert_eq!(open[0].2, "media/w1/bucket/in/clip%20%221%22%20%7B%24M%7D.mp4");
    assert_eq!(open[1].2, "media/w1/bucket/in/游戏.mp4");
    told().await;
    for name in [CLIP, FILM] {
        let quoted = Value::from(name).to_string();
        until(&format!("somebody is told: {name}"), async || {
            pager.requests().iter().any(|alert| alert.contains(&quoted[1..quoted.len() - 1])).then_some(())
        })
        .await;
    }

    // What goes on says nothing, and what fails again is the problem that it is already.
    call_back("r3", "in/other.mp4", "Running").await;
    call_back("r4", "in/游戏.mp4", "Failed").await;
    told().await;
    assert_eq!(real.until_open(&host, &[CLIP, FILM]).await, open);

    // Another run of the first thing succeeds, and of something that never failed.
    call_back("r5", "in/other.mp4", "Success").await;
    call_back("r6", "in/clip \"1\" {$M}.mp4", "Success").await;
    told().await;
    let open = real.until_open(&host, &[FILM]).await;

    // 1 closes, 4 says why.
    let params = json!({"eventids": [open[0].1], "action": 5, "message": "seen"});
    real.call("event.acknowledge", params).await;
    real.until_open(&host, &[]).await;
    daemon.stop().await;
    // Others count who is told.
    for (method, id) in listener {
        real.call(method, json!([id])).await;
    }
}
