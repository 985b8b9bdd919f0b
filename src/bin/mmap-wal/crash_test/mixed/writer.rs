//! The child: threads that append units, truncate and cut, and tell the parent what was promised.
//!
//! Whoever appends, checkpoints or truncates shares a lock from before the call until after its line is written; whoever
//! cuts or resets has it alone. So a line about a cut stands behind the lines of all units that the cut may drop, and
//! before those of all units that get their numbers again.

use std::fs::File;
use std::io::{self, IoSlice, Write, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mmap_wal::{Error, Event, Pending, Wal};

use crate::crash_test::mixed::Hosted;
use crate::crash_test::mixed::line::Line;
use crate::crash_test::mixed::unit::{Call, Name, Source, Unit};
use crate::crash_test::random::{Random, mix};
use crate::failure::{Code, FAILED, Failure, Outcome, complain};
use crate::parse::LogArgs;

/// How many units there are to one truncation and to one cut, about.
const UNITS_PER_TRUNCATION: u64 = 100;
const UNITS_PER_CUT: u64 = 150;
/// How many cuts there are to one reset.
const CUTS_PER_RESET: u64 = 16;
/// How many submitted units a thread waits for at once, at most.
const PENDING: u64 = 8;

/// Append generated units from several threads.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    #[command(flatten)]
    log: LogArgs,
    /// Who prepares and seals segments.
    #[arg(long, value_enum)]
    background: Hosted,
    /// How many threads append.
    #[arg(long)]
    threads: u32,
    /// Whether one of them truncates the front now and then.
    #[arg(long)]
    truncate: bool,
    /// Whether one of them cuts off the back now and then.
    #[arg(long)]
    cut: bool,
    /// What the units and the order of the calls follow from.
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    round: u32,
}

/// The pipe to the parent.
struct Parent(File);

impl Parent {
    fn on_stdout() -> io::Result<Self> {
        Ok(Self(File::from(stdout().as_fd().try_clone_to_owned()?)))
    }

    /// One write, because a pipe takes a short one whole or not at all.
    fn tell(&self, line: Line) -> Result<(), Failure> {
        let text = line.to_string();
        match (&self.0).write(text.as_bytes()) {
            Ok(written) if written == text.len() => Ok(()),
            Ok(_) => Err(Failure::output(&io::ErrorKind::WriteZero.into())),
            Err(e) => Err(Failure::output(&e)),
        }
    }

    fn tell_event(&self, event: &Event) {
        let line = match event {
            Event::Rotated { segment } => Line::Rotated(*segment),
            Event::Sealed { segment } => Line::Sealed(*segment),
            _ => return,
        };
        // Promises nothing; if the parent is gone, the next acknowledgement notices.
        let _ = self.tell(line);
    }
}

/// What the threads share.
struct Writer<'a> {
    wal: Wal,
    args: &'a Args,
    source: Source,
    parent: Arc<Parent>,
    /// Shared by calls that only add or remove at the front, held alone by those that cut.
    cuts: RwLock<()>,
    failed: AtomicBool,
}

/// Appends until it is killed.
pub(crate) fn run(args: &Args) -> Outcome {
    let parent = Arc::new(Parent::on_stdout().map_err(|e| Failure::output(&e))?);
    let listener = Arc::clone(&parent);
    let options = args.log.options().background(args.background.into());
    let wal = options.on_event(move |event| listener.tell_event(event)).open(&args.dir)?;
    let found = wal.positions();
    parent.tell(Line::Opened { first: found.first, last: found.last, checkpoint: found.checkpoint })?;
    let source = Source { seed: args.seed, segment_size: args.log.segment_size };
    let writer = Writer { wal, args, source, parent, cuts: RwLock::default(), failed: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let writer = &writer;
        // The scope waits for all of them.
        (0..args.threads).for_each(|thread| drop(scope.spawn(move || writer.work(thread))));
    });
    Ok(Code(FAILED))
}

/// Sees to it that a thread that ends, by an error or a panic, stops the others and is known of before the kill.
struct Alive<'a>(&'a Writer<'a>);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.failed.store(true, Ordering::Relaxed);
        // If the parent is gone, nobody wants to know.
        let _ = self.0.parent.tell(Line::Failed);
    }
}

impl Writer<'_> {
    /// One thread, until it or another one fails.
    fn work(&self, thread: u32) {
        let _alive = Alive(self);
        if let Err(failure) = self.append_on(thread)
            && !failure.is_quiet()
        {
            complain(&failure.to_string());
        }
    }

    fn append_on(&self, thread: u32) -> Result<(), Failure> {
        let args = self.args;
        let mut random = Random::new(mix(args.seed ^ mix(u64::from(args.round))) ^ u64::from(thread));
        let mut pending = Vec::new();
        for counter in 0.. {
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            self.append(Name { round: args.round, thread, counter }, &mut pending)?;
            self.other_work(thread, &mut random, &mut pending)?;
        }
        Ok(())
    }

    /// What is done between two units.
    fn other_work(&self, thread: u32, random: &mut Random, pending: &mut Vec<Pending>) -> Result<(), Failure> {
        if pending.len() as u64 > random.below(PENDING) {
            self.wait(pending)?;
        }
        if self.args.truncate && thread == 0 && random.below(UNITS_PER_TRUNCATION) == 0 {
            self.truncate(random)?;
        }
        if self.args.cut && thread == self.args.threads - 1 && random.below(UNITS_PER_CUT) == 0 {
            self.cut(random)?;
        }
        if self.args.background == Hosted::Caller && random.below(8) == 0 {
            self.wal.maintain()?;
        }
        Ok(())
    }

    /// Appends a unit, and tells its number when the call has returned. A unit that was submitted is published then,
    /// which is enough to survive a kill.
    fn append(&self, name: Name, pending: &mut Vec<Pending>) -> Result<(), Failure> {
        let unit = self.source.unit(name);
        let _shared = self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        let seq = self.call(&unit, pending)?;
        self.parent.tell(Line::Acked { seq, thread: name.thread, counter: name.counter })
    }

    fn call(&self, Unit { call, tag, records }: &Unit, pending: &mut Vec<Pending>) -> Result<u64, Error> {
        let (wal, record) = (&self.wal, records[0].as_slice());
        let submitted = match call {
            Call::Append => return wal.append(record),
            Call::Tagged => return wal.append_tagged(*tag, &[IoSlice::new(record)]),
            Call::Vectored => {
                let (one, other) = record.split_at(record.len() / 2);
                return wal.append_vectored(&[IoSlice::new(one), IoSlice::new(other)]);
            }
            Call::With => return append_in_place(wal, record),
            Call::Try => return wal.try_append(record)?.map_or_else(|| wal.append(record), Ok),
            Call::Batch => return Ok(wal.append_batch(records)?.first().unwrap_or(0)),
            Call::Submit => wal.submit(record)?,
            Call::SubmitBatch => wal.submit_batch(records)?,
        };
        let seq = submitted.seqs().first().unwrap_or(0);
        pending.push(submitted);
        Ok(seq)
    }

    /// Waits until what was submitted is durable.
    fn wait(&self, pending: &mut Vec<Pending>) -> Result<(), Error> {
        for submitted in pending.drain(..) {
            match submitted.wait() {
                Ok(_) => {}
                // A cut came before.
                Err(Error::TruncatedBack { .. }) if self.args.cut => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sets a checkpoint somewhere, and removes what is before some record.
    fn truncate(&self, random: &mut Random) -> Result<(), Failure> {
        let _shared = self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        let found = self.wal.positions();
        let count = found.last + 1 - found.first;
        let somewhere = |random: &mut Random| found.first - 1 + random.below(count + 1);
        let checkpoint = somewhere(random);
        self.parent.tell(Line::Checkpoint(checkpoint))?;
        self.wal.checkpoint(checkpoint)?;
        self.parent.tell(Line::CheckpointDone(checkpoint))?;
        let up_to = if random.below(8) == 0 { found.last } else { somewhere(random) };
        self.parent.tell(Line::Front(up_to))?;
        self.wal.truncate_front(up_to)?;
        self.parent.tell(Line::FrontDone(up_to))
    }

    /// Cuts off some records at the back, mostly few, or drops all and goes on further up.
    fn cut(&self, random: &mut Random) -> Result<(), Failure> {
        let _alone = self.cuts.write().unwrap_or_else(PoisonError::into_inner);
        let found = self.wal.positions();
        if random.below(CUTS_PER_RESET) == 0 {
            let next_seq = found.last + 1 + random.below(1000);
            self.parent.tell(Line::Reset(next_seq))?;
            self.wal.reset(next_seq)?;
            return self.parent.tell(Line::ResetDone(next_seq));
        }
        let count = found.last + 1 - found.first;
        let depth = match random.below(8) {
            0 => count,
            1 | 2 => random.below(count + 1),
            _ => random.below(count.min(40) + 1),
        };
        // The first place from there on that is not inside a batch.
        for after in found.last - depth..=found.last {
            self.parent.tell(Line::Back(after))?;
            match self.wal.truncate_back(after) {
                Ok(()) => return self.parent.tell(Line::BackDone(after)),
                Err(Error::InsideBatch { .. }) => self.parent.tell(Line::BackRefused(after))?,
                Err(e) => return Err(e.into()),
            }
        }
        Err(Failure::new(FAILED, format!("record {} is the last and does not end its batch", found.last)))
    }
}

fn append_in_place(wal: &Wal, record: &[u8]) -> Result<u64, Error> {
    let filled = wal.append_with(record.len() + 7, |bytes| {
        bytes[..record.len()].copy_from_slice(record);
        Ok::<_, std::convert::Infallible>(record.len())
    })?;
    match filled {
        Ok(seq) => Ok(seq),
        Err(never) => match never {},
    }
}
