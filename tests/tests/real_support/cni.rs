//! Debian's CNI plugins, called as libcni calls them: one after the other, each with the result
//! of the one before, and the outcome left in libcni's cache.

use std::io::Write as _;
use std::process::{Command, Stdio};

use pkttrace_tests::Site;
use serde_json::{Value, json};

use super::cache::CacheFile;

const PLUGINS: &str = "/usr/lib/cni";

/// A pod that plugins have connected; disconnected when dropped.
pub struct Pod<'a> {
    site: &'a Site,
    node: String,
    host: String,
    args: [(String, String); 3],
    list: Vec<Value>,
    /// What the last plugin returned.
    pub result: Value,
    _cached: Option<CacheFile>,
}

impl<'a> Pod<'a> {
    /// Connects namespace `host` to `node` by this list of plugins, for pod `namespace/name`.
    pub fn add(
        site: &'a Site,
        (node, host): (&str, &str),
        (namespace, name): (&str, &str),
        list: Vec<Value>,
    ) -> Self {
        let args =
            [("IgnoreUnknown", "1"), ("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut pod = Self {
            site,
            node: node.to_owned(),
            host: host.to_owned(),
            args,
            list,
            result: Value::Null,
            _cached: None,
        };
        for plugin in pod.list.clone() {
            let said = pod.call("ADD", plugin).expect("the plugin succeeds");
            pod.result = serde_json::from_str(&said).expect("a result");
        }
        let name = format!("net-{}-eth0", site.netns(host));
        pod._cached = Some(CacheFile::new(&name, &pod.entry()));
        pod
    }

    /// Its address, as the plugins say.
    pub fn address(&self) -> String {
        let address = self.result["ips"][0]["address"].as_str().expect("an address");
        address.split('/').next().unwrap_or_default().to_owned()
    }

    fn entry(&self) -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": self.site.netns(&self.host), "config": "e30=",
            "ifName": "eth0", "networkName": "net", "cniArgs": self.args, "result": self.result,
        })
    }

    /// `CNI_COMMAND=command` of one plugin.
    fn call(&self, command: &str, mut conf: Value) -> Result<String, String> {
        conf["cniVersion"] = "1.0.0".into();
        conf["name"] = "net".into();
        if !self.result.is_null() {
            conf["prevResult"] = self.result.clone();
        }
        let args: Vec<_> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut plugin = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.site.netns(&self.node)))
            .arg(format!("{PLUGINS}/{}", conf["type"].as_str().expect("a type")))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.site.netns(&self.host))
            .env("CNI_NETNS", format!("/run/netns/{}", self.site.netns(&self.host)))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter starts");
        let stdin = plugin.stdin.take();
        let _ = stdin.expect("piped").write_all(conf.to_string().as_bytes());
        let output = plugin.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout);
        if output.status.success() { Ok(said) } else { Err(said + &text(&output.stderr)) }
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        for plugin in self.list.iter().rev().cloned() {
            if let Err(error) = self.call("DEL", plugin) {
                eprintln!("CNI DEL: {error}");
            }
        }
    }
}
