//! The peer of the front door: axum and nothing else, answering constant JSON.

use std::process::Stdio;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::table::line;

/// What the server answers.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    body: String,
}

/// Serves until stdin ends, which it does when the parent has ended.
pub(crate) async fn serve(arguments: Arguments) -> Result<()> {
    let body = Bytes::from(arguments.body);
    let answer = ([(CONTENT_TYPE, "application/json")], body);
    let me = answer.clone();
    // The extractor reads the body of the request; nobody looks at it.
    let check = move |_: Bytes| async move { answer };
    let routes = Router::new()
        .route("/v1/me", get(move || async move { me }))
        .route("/v1/limits/check", post(check));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    line(&listener.local_addr()?.to_string());
    let listener = listener.tap_io(|stream| {
        // Without it an answer may wait for an acknowledgement; with an error it only is slower.
        let _ = stream.set_nodelay(true);
    });
    let parent_ended =
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    tokio::select! {
        served = async { axum::serve(listener, routes).await } => Ok(served?),
        _ = parent_ended => Ok(()),
    }
}

/// The server as a process.
#[derive(Debug)]
pub(crate) struct Bare {
    process: Child,
    pub(crate) address: String,
}

impl Bare {
    pub(crate) async fn start(body: &str) -> Result<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare-axum", "--body", body]).kill_on_drop(true);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().context("bare-axum has no stdout")?;
        let address = BufReader::new(stdout).lines().next_line().await?;
        Ok(Bare { process, address: address.context("bare-axum has ended")? })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.process.id().into_iter().collect()
    }
}
