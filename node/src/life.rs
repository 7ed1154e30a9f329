//! How this process is asked from within to end and begin again.

use std::sync::Arc;

use tokio::sync::watch;

/// Clones are the same life.
#[derive(Clone, Debug)]
pub struct Life {
    restart: Arc<watch::Sender<bool>>,
}

impl Default for Life {
    fn default() -> Self {
        Self { restart: Arc::new(watch::Sender::new(false)) }
    }
}

impl Life {
    /// Asks for an orderly stop, after which the same command is run in the same process.
    pub fn restart(&self) {
        self.restart.send_replace(true);
    }

    /// Returns when a restart was asked for.
    pub async fn restart_asked(&self) {
        let mut restart = self.restart.subscribe();
        // The sender lives as long as this handle.
        let _ = restart.wait_for(|asked| *asked).await;
    }
}
