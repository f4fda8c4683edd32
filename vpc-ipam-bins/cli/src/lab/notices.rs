//! What the daemon of a lab does, for who follows it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use vpc_ipamd::Notice;

/// What the daemon of a node does, one after the other. The daemon does not wait for the follower, who misses some of it when slow.
#[derive(Debug)]
pub struct Notices {
    receiver: Receiver<Notice>,
    missed: Arc<AtomicU64>,
}

/// How many notices are kept for who follows them: more than there are from the start of a node until it is full.
const NOTICES_MAX: usize = 1024;

impl Notices {
    /// Waits for what happens next; `None` once the daemon has ended.
    pub fn recv(&self) -> Option<Notice> {
        self.receiver.recv().ok()
    }

    /// Returns how many there was no room for since this was last asked.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

/// Returns where the daemon sends notices and where they can be followed; tells `ready` of the first.
pub(super) fn relay(ready: Sender<()>) -> io::Result<(Sender<Notice>, Notices)> {
    let (sender, from_daemon) = channel();
    let (to_follower, receiver) = sync_channel(NOTICES_MAX);
    let missed = Arc::new(AtomicU64::new(0));
    let notices = Notices { receiver, missed: Arc::clone(&missed) };
    thread::Builder::new()
        .name("notices".to_string())
        .spawn(move || pass_on(&from_daemon, &to_follower, &missed, ready))?;
    Ok((sender, notices))
}

/// Takes whatever the daemon sends, so that nothing queues up there, and passes on what there is room for.
fn pass_on(
    from_daemon: &Receiver<Notice>,
    to_follower: &SyncSender<Notice>,
    missed: &AtomicU64,
    ready: Sender<()>,
) {
    let mut ready = Some(ready);
    while let Ok(notice) = from_daemon.recv() {
        if let Some(ready) = ready.take() {
            let _ = ready.send(());
        }
        match to_follower.try_send(notice) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                missed.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follower_who_does_not_read_misses_what_there_is_no_room_for() {
        const MORE: usize = 10;
        let (sender, from_daemon) = channel();
        for _ in 0..NOTICES_MAX + MORE {
            sender.send(Notice::HostReady { changed: Vec::new() }).unwrap();
        }
        drop(sender);
        let (to_follower, receiver) = sync_channel(NOTICES_MAX);
        let notices = Notices { receiver, missed: Arc::default() };
        let (ready, is_ready) = channel();

        // Returns, though there is no reader.
        pass_on(&from_daemon, &to_follower, &notices.missed, ready);

        drop(to_follower);
        assert_eq!(is_ready.iter().count(), 1);
        assert_eq!((notices.missed(), notices.missed()), (MORE as u64, 0));
        assert_eq!(core::iter::from_fn(|| notices.recv()).count(), NOTICES_MAX);
    }
}
