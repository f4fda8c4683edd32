//! The thread that writes the journal, and the loop's end of it, which never waits for it.

use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{info, warn};
use vpc_ipam_core::journal::{Hashes, Snapshot, Step};
use vpc_ipam_core::{Ipam, Timestamp, error_chain};

use crate::journal::segments::{RecordError, Segments};
use crate::journal::{Begins, Head, JournalOptions};

/// How many steps may wait to be written: those of an instance that fills with pods at once.
const QUEUE_MAX: usize = 4096;
/// How far apart steps are that have a hash of the state, which takes milliseconds on a full node.
const HASHES: Hashes = Hashes::Every(Duration::from_secs(60));
/// After which it is tried again to write, where that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// After which it is tried again to begin a segment, where the thread did not keep up. A snapshot copies the whole state.
const BEHIND: Duration = Duration::from_secs(1);
/// How long the last steps may take to be written when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The loop's end of the thread.
pub(crate) struct FlightRecorder {
    jobs: SyncSender<Job>,
    wanted: Arc<Wanted>,
    /// The number of the next step, or why there has to be another segment before it.
    next: Result<u64, Begins>,
    /// Before which no other segment is begun, after the thread did not keep up.
    not_before: Option<Instant>,
    /// Closes when the thread has written everything.
    ended: oneshot::Receiver<()>,
}

enum Job {
    Begin(Timestamp, Begins, Box<Snapshot>),
    Step(Box<Step>),
}

/// What the thread wants next.
struct Wanted(AtomicU8);

const STEPS: u8 = 0;
const SEGMENT: u8 = 1;
/// A segment after a gap.
const SEGMENT_AFTER_GAP: u8 = 2;
const NOTHING: u8 = 3;

impl FlightRecorder {
    /// Starts the thread, and lets the node record.
    pub(crate) fn start(options: JournalOptions, ipam: &mut Ipam, now: Timestamp) -> Self {
        Self::start_with(options, PAUSE, ipam, now)
    }

    fn start_with(
        options: JournalOptions,
        pause: Duration,
        ipam: &mut Ipam,
        now: Timestamp,
    ) -> Self {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let (end, ended) = oneshot::channel();
        let wanted = Arc::new(Wanted(AtomicU8::new(STEPS)));
        let thread = Thread {
            segments: Segments::new(options),
            wanted: Arc::clone(&wanted),
            pause,
            failed: None,
            asked: false,
        };
        let work = move || {
            thread.run(&queue);
            drop(end);
        };
        // A thread that cannot be started shows as a closed queue.
        let _ = thread::Builder::new().name("journal".to_string()).spawn(work);
        let mut recorder =
            Self { jobs, wanted, next: Err(Begins::Started), not_before: None, ended };
        recorder.begin(ipam, now);
        recorder
    }

    /// Hands on what was recorded since the last time. Call it once the polls are drained.
    pub(crate) fn record(&mut self, ipam: &mut Ipam, now: Timestamp) {
        while let (Ok(next), Some(step)) = (self.next, ipam.poll_step()) {
            // The node keeps a bounded number of steps.
            let sent = step.number == next && self.jobs.try_send(Job::Step(Box::new(step))).is_ok();
            self.next = if sent { Ok(next + 1) } else { Err(Begins::Gap) };
        }
        match self.wanted.0.load(Ordering::Acquire) {
            STEPS => {}
            NOTHING => self.next = Err(Begins::Gap),
            SEGMENT if self.next.is_ok() => self.next = Err(Begins::GoesOn),
            _ => self.next = Err(Begins::Gap),
        }
        if self.next.is_err() {
            self.begin(ipam, now);
        }
    }

    /// Begins another segment; tried again with the next call while the thread does not keep up or does not want any.
    fn begin(&mut self, ipam: &mut Ipam, now: Timestamp) {
        // What is not written costs nothing.
        ipam.end_journal();
        let Err(begins) = self.next else { return };
        let is_behind = self.not_before.is_some_and(|at| at > Instant::now());
        if is_behind || self.wanted.0.load(Ordering::Acquire) == NOTHING {
            return;
        }
        self.not_before = None;
        let snapshot = Box::new(ipam.begin_journal(HASHES));
        self.wanted.0.store(STEPS, Ordering::Release);
        match self.jobs.try_send(Job::Begin(now, begins, snapshot)) {
            Ok(()) => self.next = Ok(1),
            Err(TrySendError::Full(_)) => {
                ipam.end_journal();
                self.not_before = Some(Instant::now() + BEHIND);
            }
            Err(TrySendError::Disconnected(_)) => {
                ipam.end_journal();
                self.wanted.0.store(NOTHING, Ordering::Release);
            }
        }
    }

    /// Ends the thread once what was handed on is written, within a bound.
    pub(crate) async fn stop(self) {
        drop(self.jobs);
        if tokio::time::timeout(STOP_PATIENCE, self.ended).await.is_err() {
            warn!("the journal is still being written");
        }
    }
}

struct Thread {
    segments: Segments,
    wanted: Arc<Wanted>,
    pause: Duration,
    /// When writing failed last, if it has not succeeded since.
    failed: Option<Instant>,
    /// Whether another segment than this one was asked for.
    asked: bool,
}

impl Thread {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let job = match self
                .failed
                .map(|at| (at + self.pause).saturating_duration_since(Instant::now()))
            {
                Some(rest) if self.wanted.0.load(Ordering::Acquire) == NOTHING => {
                    match queue.recv_timeout(rest) {
                        Ok(job) => Some(job),
                        Err(RecvTimeoutError::Timeout) => {
                            self.wanted.0.store(SEGMENT_AFTER_GAP, Ordering::Release);
                            continue;
                        }
                        Err(RecvTimeoutError::Disconnected) => None,
                    }
                }
                _ => queue.recv().ok(),
            };
            let Some(job) = job else { return };
            let mut result = self.take(job);
            while let (Ok(()), Ok(job)) = (&result, queue.try_recv()) {
                result = self.take(job);
            }
            match result.and_then(|()| self.segments.flush()) {
                Ok(()) => self.written(),
                Err(error) => self.not_written(&error),
            }
        }
    }

    fn take(&mut self, job: Job) -> Result<(), RecordError> {
        match job {
            Job::Begin(at, begins, snapshot) => {
                self.segments.flush()?;
                self.segments.begin(&Head::new(at, begins, *snapshot))?;
                self.asked = false;
                if self.failed.take().is_some() {
                    info!("the journal is written again");
                }
                Ok(())
            }
            Job::Step(step) => self.segments.add(&step),
        }
    }

    fn written(&mut self) {
        if !self.asked && self.segments.is_full() {
            self.asked = true;
            self.wanted.0.store(SEGMENT, Ordering::Release);
        }
    }

    fn not_written(&mut self, error: &RecordError) {
        if self.failed.is_none() {
            warn!(
                error = error_chain(error),
                "what happens is not recorded in the journal for now; pods are served all the same"
            );
        }
        self.failed = Some(Instant::now());
        self.segments.end();
        self.wanted.0.store(NOTHING, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use vpc_ipam_core::journal::Replay;
    use vpc_ipam_core::{AddressRequest, Budget, Config, Limits, Node, Pod, PodKey};

    use super::*;
    use crate::journal::{self, Segment, SegmentError};

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn ipam() -> Ipam {
        let node = Node::new(
            "i-1".parse().unwrap(),
            "m5.large".parse().unwrap(),
            "eu-west-1a".parse().unwrap(),
            "vpc-1".parse().unwrap(),
            "eni-1".parse().unwrap(),
            "subnet-1".parse().unwrap(),
        );
        let limits = Limits::lookup(node.instance_type).unwrap();
        Ipam::new(node, limits, Config::default(), Budget::default(), 1, NOW).unwrap()
    }

    /// A pod asks, and is gone again: two inputs.
    fn live(ipam: &mut Ipam, second: u64) {
        let now = NOW + Duration::from_secs(second);
        let key = PodKey::new("aws-cni", &format!("c{second}"), "eth0").unwrap();
        let pod = Pod::new("default", format!("pod{second}"));
        let _ = ipam.assign(&AddressRequest::new(key.clone(), pod), now);
        let _ = ipam.release(&key, now);
        while ipam.poll_action().is_some() {}
        while ipam.poll_event().is_some() {}
    }

    /// Waits until the thread has ended, and so has written everything.
    fn stop(recorder: FlightRecorder) {
        let FlightRecorder { jobs, ended, .. } = recorder;
        drop(jobs);
        let _ = ended.blocking_recv();
    }

    fn segments(folder: &Path) -> Vec<Segment> {
        journal::read(folder).unwrap().into_iter().map(Result::unwrap).collect()
    }

    /// Replays a segment, and returns how many steps it has, with the state after the last.
    fn replayed(segment: &Segment) -> (usize, vpc_ipam_core::journal::StateHash) {
        let mut replay = Replay::from_snapshot(&segment.head.snapshot);
        for step in &segment.steps {
            let _ = replay.step(step.clone()).unwrap();
        }
        (segment.steps.len(), replay.ipam().state())
    }

    #[test]
    fn what_happened_is_replayed_to_the_same_state() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        let mut ipam = ipam();
        let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
        for second in 0..100 {
            live(&mut ipam, second);
            recorder.record(&mut ipam, NOW);
        }
        stop(recorder);

        let segments = segments(&options.folder);
        assert_eq!(segments.len(), 1);
        assert_eq!(segments[0].head.begins, Begins::Started);
        assert_eq!(segments[0].cut, None);
        assert_eq!(replayed(&segments[0]), (200, ipam.state()));
        // The first, and one a minute.
        assert_eq!(segments[0].steps.iter().filter(|step| step.state.is_some()).count(), 2);
    }

    #[test]
    fn another_start_begins_another_segment() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        for start in 0..3 {
            let mut ipam = ipam();
            let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
            live(&mut ipam, start);
            recorder.record(&mut ipam, NOW);
            stop(recorder);
        }
        let segments = segments(&options.folder);
        let names: Vec<&str> = segments.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["segment-000001.jsonl", "segment-000002.jsonl", "segment-000003.jsonl"]);
        assert!(segments.iter().all(|it| it.head.begins == Begins::Started && it.steps.len() == 2));
    }

    #[test]
    fn a_full_segment_is_followed_by_one_that_goes_on_and_the_oldest_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let size_max = 256 << 10;
        let options = JournalOptions::new(folder.path().join("journal")).with_size_max(size_max);
        let mut ipam = ipam();
        let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
        for second in 0..4_000 {
            live(&mut ipam, second);
            recorder.record(&mut ipam, NOW);
            // So that the thread keeps up.
            thread::sleep(Duration::from_micros(50));
        }
        stop(recorder);

        let found: Vec<(u64, std::path::PathBuf)> =
            journal::segments::list(&options.folder).unwrap();
        assert!(found[0].0 > 1, "{found:?}");
        let size: u64 = found.iter().map(|(_, path)| fs::metadata(path).unwrap().len()).sum();
        // A segment may get a few steps more while the next is asked for.
        assert!(size <= size_max + size_max / 4, "{size} bytes");
        let segments = segments(&options.folder);
        assert!(segments.len() >= 3, "{}", segments.len());
        let mut ends = None;
        for segment in &segments {
            if segment.head.begins == Begins::GoesOn {
                // Nothing is missing between it and the one before.
                assert!(ends.is_none_or(|end| end == segment.head.state), "{}", segment.name);
            }
            ends = Some(replayed(segment).1);
        }
        assert_eq!(ends, Some(ipam.state()));
    }

    #[test]
    fn old_segments_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"))
            .with_age_max(Duration::from_secs(3600));
        let begin = || {
            let mut ipam = ipam();
            stop(FlightRecorder::start(options.clone(), &mut ipam, NOW));
        };
        begin();
        begin();
        let first = &journal::segments::list(&options.folder).unwrap()[0].1;
        let file = fs::File::options().write(true).open(first).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3700)).unwrap();
        // What is none of ours is left alone.
        fs::write(options.folder.join("segment-x.jsonl"), "").unwrap();
        begin();
        let left: Vec<u64> =
            journal::segments::list(&options.folder).unwrap().into_iter().map(|it| it.0).collect();
        assert_eq!(left, [2, 3]);
        assert!(options.folder.join("segment-x.jsonl").exists());
    }

    /// However much of the last line is there.
    #[test]
    fn a_torn_end_is_left_out_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        let mut ipam = ipam();
        let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
        live(&mut ipam, 0);
        recorder.record(&mut ipam, NOW);
        stop(recorder);
        let path = options.folder.join("segment-000001.jsonl");
        let whole = fs::read(&path).unwrap();
        let lines: Vec<usize> = whole
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|it| it.0 + 1)
            .collect();
        let head = lines[0];
        for end in 0..=whole.len() {
            let read = journal::parse("s", &whole[..end]);
            if end < head {
                assert!(matches!(read, Err(SegmentError::NoHead { .. })), "{end}: {read:?}");
                continue;
            }
            let read = read.unwrap();
            let complete = lines.iter().filter(|line| **line <= end).count() - 1;
            assert_eq!(read.steps.len(), complete, "{end}");
            let torn = end - lines.iter().filter(|line| **line <= end).max().unwrap();
            let expected = (torn > 0).then_some(journal::Cut::Torn { bytes: torn });
            assert_eq!(read.cut, expected, "{end}");
            assert_eq!(replayed(&read).0, complete);
        }
    }

    #[test]
    fn a_damaged_line_ends_the_segment_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        let mut ipam = ipam();
        let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
        for second in 0..5 {
            live(&mut ipam, second);
        }
        recorder.record(&mut ipam, NOW);
        stop(recorder);
        let text = fs::read_to_string(options.folder.join("segment-000001.jsonl")).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines[4] = "\0".repeat(lines[4].len());
        let read = journal::parse("s", (lines.join("\n") + "\n").as_bytes()).unwrap();
        assert_eq!(read.steps.len(), 3);
        let journal::Cut::Damaged { line, lines: left_out, .. } = read.cut.unwrap() else {
            panic!()
        };
        assert_eq!((line, left_out), (5, 7));
    }

    #[test]
    fn a_segment_of_another_release_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        let mut ipam = ipam();
        stop(FlightRecorder::start(options.clone(), &mut ipam, NOW));
        let text = fs::read_to_string(options.folder.join("segment-000001.jsonl")).unwrap();
        let mut head: serde_json::Value = serde_json::from_str(&text).unwrap();
        head["release"] = "9.9.9".into();
        let parse = |head: &serde_json::Value| journal::parse("s", format!("{head}\n").as_bytes());
        // What it understands it reads.
        assert_eq!(parse(&head).unwrap().head.release, "9.9.9");
        let mut other_form = head.clone();
        other_form["form"] = 2.into();
        head["snapshot"] = "of another shape".into();
        for head in [head, other_form] {
            let error = parse(&head).unwrap_err().to_string();
            assert!(error.contains("release 9.9.9 wrote it"), "{error}");
        }
        for text in ["", "\n", "{}\n", "not a journal\n"] {
            assert!(journal::parse("s", text.as_bytes()).is_err(), "{text}");
        }
    }

    /// What keeps the journal from being written keeps nothing else: the node goes on, and what happens later is recorded.
    #[test]
    fn a_journal_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("journal");
        fs::write(&place, "in the way").unwrap();
        let options = JournalOptions::new(place.clone());
        let mut ipam = ipam();
        let pause = Duration::from_millis(20);
        let mut recorder = FlightRecorder::start_with(options, pause, &mut ipam, NOW);
        while recorder.wanted.0.load(Ordering::Acquire) != NOTHING {
            thread::yield_now();
        }
        live(&mut ipam, 0);
        recorder.record(&mut ipam, NOW);
        // Then nothing is recorded, which would cost memory.
        assert_eq!(ipam.poll_step(), None);
        fs::remove_file(&place).unwrap();
        let mut second = 1;
        while journal::read(&place).is_err() {
            live(&mut ipam, second);
            recorder.record(&mut ipam, NOW);
            second += 1;
            thread::sleep(Duration::from_millis(1));
        }
        live(&mut ipam, second);
        recorder.record(&mut ipam, NOW);
        stop(recorder);
        let segments = segments(&place);
        assert_eq!(segments[0].head.begins, Begins::Gap);
        assert_eq!(replayed(segments.last().unwrap()).1, ipam.state());
    }

    /// Many steps at once, more than may wait.
    #[test]
    fn steps_that_do_not_fit_leave_a_gap_and_are_followed_by_a_segment() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions::new(folder.path().join("journal"));
        let mut ipam = ipam();
        let mut recorder = FlightRecorder::start(options.clone(), &mut ipam, NOW);
        let most = QUEUE_MAX as u64;
        for second in 0..most {
            live(&mut ipam, second);
        }
        // The node itself kept the last of them alone.
        recorder.record(&mut ipam, NOW);
        live(&mut ipam, most);
        recorder.record(&mut ipam, NOW);
        stop(recorder);
        let segments = segments(&options.folder);
        let begins: Vec<Begins> = segments.iter().map(|it| it.head.begins).collect();
        assert_eq!(begins, [Begins::Started, Begins::Gap]);
        assert_eq!(replayed(&segments[1]), (2, ipam.state()));
    }
}
