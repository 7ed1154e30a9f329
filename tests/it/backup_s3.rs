//! Backups in a bucket: made under writes, restored over TLS, refused clearly when the service refuses
//! or fails; and no secret anywhere.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::backups::Backup;
use client::fresh_key;
use node::cli::launch::LaunchError;
use serde_json::Value;
use tests::{Cluster, Options, Probe, until};
use tokio::process::Command;

use crate::backup::{
    WITHIN, all_is_known, back_up, digests_are_those_of_the_replicas, is_as_backed_up, job_ends,
    keep_writing, next_one, results, rubbish_goes, submit,
};
use crate::stage::{operator, same};

mod bucket;
mod server;
mod sign;

use server::Server;
use sign::Keys;

const BUCKET: &str = "skep-backups";
const SECRET: &str = "wJalrXUtnFEMI-not-to-be-seen";
const WRONG: &str = "bPxRfiCYEXAMPLE-not-to-be-seen";
const TOKEN: &str = "FwoGZXIvYXdzEJr-not-to-be-seen";

fn keys() -> Keys {
    let (id, secret) = ("AKIAIOSFODNN7EXAMPLE".to_owned(), SECRET.to_owned());
    Keys { id, secret, token: Some(TOKEN.to_owned()) }
}

/// What the nodes and the commands of a test are told about the service.
struct Setting {
    server: Server,
    /// Holds the file of credentials, and the certificate of the service.
    dir: tempfile::TempDir,
}

impl Setting {
    async fn new() -> Result<Setting> {
        let setting =
            Setting { server: Server::start(BUCKET, keys()).await?, dir: tempfile::tempdir()? };
        setting.write_credentials(SECRET)?;
        std::fs::write(setting.certificate(), &setting.server.certificate)?;
        Ok(setting)
    }

    fn credentials(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("certificate.pem")
    }

    fn write_credentials(&self, secret: &str) -> Result<()> {
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n\
             aws_session_token = {TOKEN}\n",
            keys().id
        );
        let mut options = std::fs::File::options();
        options.create(true).write(true).truncate(true).mode(0o600);
        let mut file = options.open(self.credentials())?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        Ok(())
    }

    /// Nodes speak plain HTTP, and have their credentials from a file.
    fn options(&self, prefix: &str) -> Options {
        Options::default()
            .set(&format!("backup.to=s3://{BUCKET}/{prefix}"))
            .set(&format!("s3.endpoint=http://{}", self.server.plain))
            .set("s3.plain_http=true")
            .set("s3.timeout_s=2")
            .set(&format!("s3.credentials_file={}", self.credentials().display()))
            .set("storage.checkpoint_s=1")
    }

    /// A restore over TLS, with credentials from the environment.
    async fn restore(&self, wanted: &Wanted<'_>, data: &Path) -> Result<Ended> {
        let Wanted { place, backup, secret, trusts } = *wanted;
        let mut command = Command::new(tests::binary()?);
        command.args(["cluster", "restore", "--output", "json", "--from"]);
        command.arg(format!("s3://{place}")).arg("--data").arg(data).stdin(Stdio::null());
        command.arg("--set").arg(format!("s3.endpoint=https://{}", self.server.tls));
        command.args(["--set", "s3.timeout_s=1"]);
        command.env("AWS_ACCESS_KEY_ID", keys().id).env("AWS_SECRET_ACCESS_KEY", secret);
        command.env("AWS_SESSION_TOKEN", TOKEN);
        if trusts {
            command.env("SSL_CERT_FILE", self.certificate()).env_remove("SSL_CERT_DIR");
        }
        if let Some(backup) = backup {
            command.args(["--backup", backup]);
        }
        let output = command.output().await.context("skep cluster restore")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let told = stdout.clone() + &stderr;
        ensure!(no_secret(told.as_bytes()), "a secret is told: {told}");
        Ok(Ended { code: output.status.code(), stdout, stderr })
    }

    /// A restore that comes to nothing, and says why; it leaves nothing.
    async fn refuses(&self, wanted: &Wanted<'_>, code: i32, why: &str) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        let ended = self.restore(wanted, &data).await?;
        ensure!(ended.code == Some(code) && ended.stderr.contains(why), "{why}: {ended:?}");
        ensure!(ended.stderr.lines().count() == 1, "{ended:?}");
        ensure!(!data.exists(), "something is left behind: {why}");
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Wanted<'a> {
    place: &'a str,
    backup: Option<&'a str>,
    secret: &'a str,
    /// The certificate of the service.
    trusts: bool,
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn no_secret(bytes: &[u8]) -> bool {
    let has = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    ![SECRET, WRONG, TOKEN].into_iter().any(has)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_backups_as_a_directory_does_and_no_secret_is_told() -> Result<()> {
    let mut setting = Setting::new().await?;
    let cluster = Cluster::start(3, setting.options("one")).await?;
    let done = submit(&cluster, 60).await?;
    job_ends(&cluster, &done).await?;
    let results = results(&cluster, 1, &done).await?;
    let (writer, before) = keep_writing(&cluster).await?;
    let first = back_up(&cluster, 1).await.context("under writes")?;
    ensure!(writer.stop().await? > before.len(), "nothing was written meanwhile");
    ensure!(first.groups.len() == 17 && first.blobs > Some(0), "{first:?}");
    digests_are_those_of_the_replicas(&cluster).await?;

    a_wrong_secret_is_refused(&setting, &cluster).await.context("a wrong secret")?;
    a_service_that_dies_fails_one_backup(&mut setting.server, &cluster).await.context("a death")?;
    nothing_tells_a_secret(&setting, &cluster).await?;
    let (admin, tenant) = (cluster.admin_key()?.to_owned(), cluster.tenant()?.clone());
    drop(cluster);

    restores_are_refused(&setting, &first).await?;
    let (home, place) = (tempfile::tempdir()?, format!("{BUCKET}/one/"));
    let wanted = Wanted { place: &place, backup: Some(&first.id), secret: SECRET, trusts: true };
    let ended = setting.restore(&wanted, &home.path().join("node-0/data")).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let told: Value = serde_json::from_str(&ended.stdout)?;
    is_as_backed_up(&told, &first)?;
    let there = setting.server.names();
    let options = setting.options("two").set("backup.every_s=1").set("backup.keep=1");
    let cluster = Cluster::revive(home, &admin, &tenant, options).await?;
    all_is_known(&cluster, 0, &before, &done, &results).await?;
    a_schedule_keeps_the_newest(&setting, &cluster).await?;
    drop(cluster);
    // Whoever has another prefix has another place.
    let mut now = setting.server.names();
    now.retain(|name| !name.starts_with("two/"));
    same("objects of the first cluster", now, there)
}

/// Backups that failed, on all nodes.
async fn failures(cluster: &Cluster) -> Result<u64> {
    let mut failures = 0;
    for node in 0..cluster.len() {
        let metrics = cluster.client(node)?.metrics().await?.body;
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix("skep_backup_failures_total "));
        failures += line.context("no metric")?.parse::<u64>()?;
    }
    Ok(failures)
}

async fn failures_rise(cluster: &Cluster, from: u64) -> Result<()> {
    let risen = until("a failure in the metrics", WITHIN, async || {
        Ok(match failures(cluster).await {
            Ok(failures) if failures > from => Probe::Done(()),
            found => Probe::NotYet(format!("{found:?}, {from} before")),
        })
    });
    Ok(risen.await?)
}

async fn a_wrong_secret_is_refused(setting: &Setting, cluster: &Cluster) -> Result<()> {
    let before = failures(cluster).await?;
    setting.write_credentials(WRONG)?;
    let begun = cluster.admin(0)?.begin_backup(&fresh_key()).await?.body;
    failures_rise(cluster, before).await?;
    for path in ["/admin/v1/backups".to_owned(), format!("/admin/v1/backups/{}", begun.id)] {
        let told = operator(cluster, 2, "GET", &path, None).await?;
        let told = told.ok(503)?["detail"].to_string();
        ensure!(told.contains("refused with 403 SignatureDoesNotMatch"), "{told}");
        ensure!(no_secret(told.as_bytes()), "{told}");
    }
    setting.write_credentials(SECRET)?;
    has_come_to_nothing(cluster, &begun.id).await
}

/// The failure is counted before its reason is written, which is tried for some time.
async fn has_come_to_nothing(cluster: &Cluster, id: &str) -> Result<()> {
    let path = format!("/admin/v1/backups/{id}");
    let over = until("the end of what failed", WITHIN, async || {
        let seen = operator(cluster, 1, "GET", &path, None).await;
        let seen = seen.map_err(|error| LaunchError::Refused(format!("{error:#}")))?;
        let told = String::from_utf8_lossy(&seen.body).into_owned();
        // What left nothing is not known.
        let is_over = seen.status == 404
            || [r#""state":"failed""#, r#""state":"cut_off""#].iter().any(|end| told.contains(end));
        Ok(if is_over { Probe::Done(()) } else { Probe::NotYet(told) })
    });
    Ok(over.await?)
}

async fn a_service_that_dies_fails_one_backup(
    server: &mut Server,
    cluster: &Cluster,
) -> Result<()> {
    let before = failures(cluster).await?;
    server.dies_after(12);
    let begun = cluster.admin(0)?.begin_backup(&fresh_key()).await?.body;
    failures_rise(cluster, before).await?;
    ensure!(server.is_dead(), "it did not die");
    let unreachable = operator(cluster, 1, "GET", "/admin/v1/backups", None).await?;
    let told = unreachable.ok(503)?["detail"].to_string();
    ensure!(told.contains("cannot connect"), "{told}");
    server.revive().await?;
    has_come_to_nothing(cluster, &begun.id).await?;
    next_one(cluster).await?;
    rubbish_goes(cluster, &begun.id).await?;
    let left = server.names().into_iter().filter(|name| name.contains(&begun.id));
    same("what is left of it", left.collect::<Vec<_>>(), Vec::new())
}

async fn nothing_tells_a_secret(setting: &Setting, cluster: &Cluster) -> Result<()> {
    let (mut files, mut logs) = (0, String::new());
    for node in 0..cluster.len() {
        let home = cluster.data(node).parent().context("a home")?.to_owned();
        for path in files_below(&home)? {
            let content = std::fs::read(&path)?;
            ensure!(no_secret(&content), "{} has a secret", path.display());
            files += 1;
            if path.ends_with("log/skep.log") {
                logs += &String::from_utf8_lossy(&content);
            }
        }
        let metrics = cluster.client(node)?.metrics().await?.body;
        ensure!(no_secret(metrics.as_bytes()), "metrics have a secret");
        let pid = cluster.pid(node).context("a process")?;
        ensure!(no_secret(&std::fs::read(format!("/proc/{pid}/cmdline"))?), "in the command");
    }
    ensure!(files > 3, "{files} files were looked at");
    // Else the test would look for secrets where nothing is told.
    for told in ["backup not made", "SignatureDoesNotMatch", "cannot connect"] {
        ensure!(logs.contains(told), "no log tells {told}");
    }
    let listed = operator(cluster, 0, "GET", "/admin/v1/backups", None).await?.ok(200)?;
    ensure!(no_secret(listed.to_string().as_bytes()), "the list has a secret");
    for name in setting.server.names() {
        let content = setting.server.content(&name).context("an object")?;
        ensure!(no_secret(&content), "{name} has a secret");
    }
    Ok(())
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

async fn restores_are_refused(setting: &Setting, backup: &Backup) -> Result<()> {
    let (one, elsewhere) = (format!("{BUCKET}/one"), format!("{BUCKET}/elsewhere"));
    let wanted = Wanted { place: &one, backup: Some(&backup.id), secret: SECRET, trusts: true };
    let wrong = Wanted { secret: WRONG, ..wanted };
    let bucket = Wanted { place: "skep-nobody/one", ..wanted };
    let empty = Wanted { place: &elsewhere, backup: None, ..wanted };
    let stranger = Wanted { trusts: false, ..wanted };
    tokio::try_join!(
        setting.refuses(&wrong, 1, "refused with 403 SignatureDoesNotMatch"),
        setting.refuses(&bucket, 1, "refused with 404 NoSuchBucket"),
        setting.refuses(&empty, 5, "has no complete a backup"),
        setting.refuses(&stranger, 1, "certificate"),
    )?;
    let server = &setting.server;
    let names = server.names();
    let file = names.iter().find(|name| name.ends_with(&format!("{}/group-3", backup.id)));
    let file = file.context("the file of a group")?;
    let whole = server.swap(file, None).context("its content")?;
    setting.refuses(&wanted, 5, "group-3 is missing").await?;
    server.swap(file, Some(whole.slice(..whole.len() / 2)));
    setting.refuses(&wanted, 5, "group-3: it is damaged").await?;
    server.swap(file, Some(whole));
    server.set_delay(Duration::from_secs(5));
    setting.refuses(&wanted, 1, "no answer within 1 s").await?;
    server.set_delay(Duration::ZERO);
    Ok(())
}

async fn a_schedule_keeps_the_newest(setting: &Setting, cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin(0)?;
    let mut seen = None;
    let kept = until("the second backup of the schedule", WITHIN, async || {
        let mut listed = admin.backups().await?.body.data;
        listed.retain(|backup| backup.state == "complete");
        let ids: Vec<String> = listed.into_iter().map(|backup| backup.id).collect();
        let first = seen.get_or_insert_with(|| ids.first().cloned());
        if first.is_none() {
            seen = None;
            return Ok(Probe::NotYet("none".to_owned()));
        }
        let goes = first.as_ref().is_some_and(|first| ids.contains(first));
        Ok(if goes { Probe::NotYet(format!("{ids:?}")) } else { Probe::Done(()) })
    });
    kept.await?;
    let names = setting.server.names();
    ensure!(names.iter().any(|name| name.starts_with("two/")), "{names:?}");
    Ok(())
}
