//! The process of a model: `skep` run again by a node for one version and one slot. It loads the version,
//! then answers batches until its socket closes. Whatever a model does here, hang, panic, end the process or
//! eat memory, the node goes on.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::frame::{self, Load, Loaded, Scores};
use super::scorer::Scorer;

/// Elections must not wait for inference.
const NICENESS: i32 = 10;

/// Serves the node at the other end of stdin until it closes it. Returns only when it could not begin.
pub fn run() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    nice(NICENESS)?;
    // What a panic says goes with the answer; a pipe that nobody reads must not fill.
    std::panic::set_hook(Box::new(|_| {}));
    let mut to_node = socket.try_clone()?;
    let requests = listen(socket)?;
    let Ok(load) = requests.first.recv() else { return Ok(()) };
    let mut scorer = match load_guarded(&load) {
        Ok(scorer) => scorer,
        Err(why) => return frame::write(&mut to_node, &Loaded::Refused(why)),
    };
    let bytes = limit_memory(load.batch_bytes)?;
    let (engine, engine_version) = scorer.engine();
    let ready = Loaded::Ready { engine: engine.to_owned(), engine_version, bytes };
    frame::write(&mut to_node, &ready)?;
    while let Ok(texts) = requests.batches.recv() {
        let scores = score(&mut scorer, &texts);
        if let Err(error) = frame::write(&mut to_node, &scores) {
            // Longer than a frame, perhaps; then fewer documents are not.
            frame::write(&mut to_node, &Scores::Err(format!("no answer: {error}")))?;
        }
    }
    Ok(())
}

struct Requests {
    first: Receiver<Load>,
    batches: Receiver<Vec<String>>,
}

/// Reads on a thread of its own, so that the process ends with its node though its model never does.
fn listen(mut socket: UnixStream) -> io::Result<Requests> {
    let (to_first, first) = sync_channel(1);
    let (to_batches, batches) = sync_channel(1);
    std::thread::Builder::new().name("skep-model-in".to_owned()).spawn(move || {
        let loaded = frame::read(&mut socket).is_ok_and(|load| to_first.send(load).is_ok());
        if loaded {
            while let Ok(texts) = frame::read(&mut socket) {
                if to_batches.send(texts).is_err() {
                    break;
                }
            }
        }
        std::process::exit(0);
    })?;
    Ok(Requests { first, batches })
}

fn load_guarded(load: &Load) -> Result<Scorer, String> {
    let library = load.library.as_ref().map(Path::new);
    let loaded = catch_unwind(|| Scorer::load(Path::new(&load.dir), load.engine, library));
    loaded.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn score(scorer: &mut Scorer, texts: &[String]) -> Scores {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let scored = catch_unwind(AssertUnwindSafe(|| scorer.score(&texts)));
    scored.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the model panicked: {}", said.unwrap_or("without a word"))
}

/// What is asked for beyond this is not given, so the process fails and not the machine. Says what it has.
fn limit_memory(batch_bytes: u64) -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    // Private memory that can be written, as the kernel counts it for the limit.
    let most = Some(bytes_of(&status, "VmData:")?.saturating_add(batch_bytes));
    setrlimit(Resource::Data, Rlimit { current: most, maximum: most })?;
    bytes_of(&status, "RssAnon:")
}

fn bytes_of(status: &str, name: &str) -> io::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("no {name} of this process")))
}
