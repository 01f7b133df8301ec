//! What one emulated device holds, and how a call gets at it.
//!
//! Every ordinal is a device of its own behind its own lock, so threads that use different ordinals never wait for each other.
//! All handles (contexts, streams, events, modules, functions, graphs) are numbers that say which device they belong to; they are
//! looked up, never followed as pointers, and never given out twice, so a stale one is an error and not a crash. Read next:
//! `context.rs`.

use super::capture::Capture;
use super::context::Context;
use super::event::Event;
use super::graph::Node;
use super::module::Function;
use super::pool::Pool;
use super::status::{Failure, Outcome, Status, fail, variable};
use super::stream::{self, Stream};
use crate::{Machine, Mode, Module};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// What a handle is in C: an address that only the driver can read.
pub type Handle = u64;

/// Handles of one kind and what they stand for.
pub struct Table<T> {
    kind: &'static str,
    entries: BTreeMap<Handle, T>,
}

impl<T> Table<T> {
    fn new(kind: &'static str) -> Self {
        Self { kind, entries: BTreeMap::new() }
    }

    pub fn insert(&mut self, handle: Handle, entry: T) {
        self.entries.insert(handle, entry);
    }

    pub fn get(&self, handle: Handle) -> Outcome<&T> {
        let kind = self.kind;
        self.entries.get(&handle).map_or_else(|| unknown(kind, handle), Ok)
    }

    pub fn get_mut(&mut self, handle: Handle) -> Outcome<&mut T> {
        let kind = self.kind;
        self.entries.get_mut(&handle).map_or_else(|| unknown(kind, handle), Ok)
    }

    pub fn remove(&mut self, handle: Handle) -> Outcome<T> {
        let kind = self.kind;
        self.entries.remove(&handle).map_or_else(|| unknown(kind, handle), Ok)
    }

    pub fn contains(&self, handle: Handle) -> bool {
        self.entries.contains_key(&handle)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.entries.iter_mut().map(|(handle, entry)| (*handle, entry))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.entries.iter().map(|(handle, entry)| (*handle, entry))
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn unknown<T>(kind: &str, handle: Handle) -> Outcome<T> {
    fail(Status::INVALID_HANDLE, format!("{handle:#x} is no {kind} of this device, or was destroyed"))
}

/// One emulated device.
pub struct State {
    pub ordinal: usize,
    pub machine: Machine,
    /// The fault that ended a kernel: as on a GPU, nothing works after it.
    sticky: Option<Failure>,
    /// The report of the first fault since the last reset.
    pub report: String,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Arc<Module>>,
    pub functions: Table<Arc<Function>>,
    pub graphs: Table<Arc<Vec<Node>>>,
    /// Graphs that can be launched.
    pub executables: Table<Arc<Vec<Node>>>,
    pub captures: Table<Capture>,
    pub pools: Table<Pool>,
    /// The pool that `cuMemAllocAsync` takes from.
    pub pool: Handle,
}

/// The devices, made when first asked for.
static DEVICES: OnceLock<Vec<Mutex<State>>> = OnceLock::new();

thread_local! {
    /// A host function of a stream is running on this thread: it may not call the driver, and would wait for itself if it did.
    pub static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// What the environment says.
pub struct Settings {
    /// EMUCUDA_MODE: how much devices check at first.
    mode: Mode,
    /// EMUCUDA_DEVICES: how many there are.
    devices: usize,
    /// EMUCUDA_MEMORY: bytes of each.
    memory: Option<u64>,
}

impl Settings {
    /// Reads it; `cuInit` tells what is wrong with it.
    pub fn read() -> Outcome<Settings> {
        let mode = match variable("EMUCUDA_MODE").as_deref() {
            None | Some("fast") => Mode::Fast,
            Some("checked") => Mode::Checked,
            Some(other) => return fail(Status::INVALID_VALUE, format!("EMUCUDA_MODE is '{other}'; it may be 'fast' or 'checked'")),
        };
        let number = |name: &str| match variable(name).map(|text| text.parse::<u64>()) {
            None => Ok(None),
            Some(Ok(number)) if number > 0 => Ok(Some(number)),
            Some(_) => fail(Status::INVALID_VALUE, format!("{name} is no whole number above 0")),
        };
        let devices = number("EMUCUDA_DEVICES")?.map_or(64, |count| count.min(1024) as usize);
        Ok(Settings { mode, devices, memory: number("EMUCUDA_MEMORY")? })
    }

    fn or_usual() -> Settings {
        Self::read().unwrap_or(Settings { mode: Mode::Fast, devices: 64, memory: None })
    }
}

fn devices() -> &'static [Mutex<State>] {
    DEVICES.get_or_init(|| {
        let settings = Settings::or_usual();
        (0..settings.devices).map(|ordinal| Mutex::new(State::new(ordinal, settings.mode))).collect()
    })
}

/// How many devices there are.
pub fn count() -> usize {
    devices().len()
}

fn find(ordinal: i32) -> Outcome<&'static Mutex<State>> {
    match usize::try_from(ordinal).ok().and_then(|at| devices().get(at)) {
        Some(state) => Ok(state),
        None => fail(Status::INVALID_DEVICE, format!("there is no device {ordinal}; there are {}", count())),
    }
}

/// Whether there is such a device: a question that waits for nobody.
pub fn exists(ordinal: i32) -> Outcome {
    find(ordinal).map(drop)
}

/// The device of this ordinal, to be used by the caller alone.
pub fn device(ordinal: i32) -> Outcome<MutexGuard<'static, State>> {
    if IN_HOST_FUNCTION.get() {
        return fail(Status::NOT_PERMITTED, "a function that runs in a stream may not call the driver");
    }
    // A panic while it was held came from a bug of the emulator's; what is left is as good as anything.
    Ok(find(ordinal)?.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// A handle that was never given out before.
pub fn new_handle(ordinal: usize) -> Handle {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Like an aligned address; the upper bits say whose it is.
    ((ordinal as u64 + 1) << 40) | (NEXT.fetch_add(1, Ordering::Relaxed) << 4)
}

/// The device that a handle belongs to.
pub fn owner(handle: Handle) -> Outcome<MutexGuard<'static, State>> {
    match (handle >> 40).checked_sub(1).filter(|ordinal| *ordinal < count() as u64) {
        Some(ordinal) => device(ordinal as i32),
        None => fail(Status::INVALID_HANDLE, format!("{handle:#x} is no handle of this driver")),
    }
}

impl State {
    fn new(ordinal: usize, mode: Mode) -> State {
        let mut state = State {
            ordinal,
            machine: new_machine(mode),
            sticky: None,
            report: String::new(),
            contexts: Table::new("context"),
            streams: Table::new("stream"),
            events: Table::new("event"),
            modules: Table::new("module"),
            functions: Table::new("function"),
            graphs: Table::new("graph"),
            executables: Table::new("executable graph"),
            captures: Table::new("capture"),
            pools: Table::new("memory pool"),
            pool: 0,
        };
        state.forget_objects();
        state
    }

    /// Nothing but default streams and the default pool, as in a new context.
    fn forget_objects(&mut self) {
        self.streams.clear();
        self.events.clear();
        self.modules.clear();
        self.functions.clear();
        self.graphs.clear();
        self.executables.clear();
        self.captures.clear();
        self.pools.clear();
        stream::insert_defaults(&mut self.streams);
        self.pool = new_handle(self.ordinal);
        self.pools.insert(self.pool, Pool::default());
    }

    /// The last context is gone, and all that was in it.
    pub fn clear(&mut self) {
        self.machine = new_machine(self.machine.mode());
        self.sticky = None;
        self.forget_objects();
    }

    /// Empty memory, no fault, no counts; handles stay valid, but captures are given up.
    pub fn reset(&mut self) {
        self.machine = new_machine(self.machine.mode());
        self.sticky = None;
        self.report.clear();
        self.captures.clear();
        for (_, stream) in self.streams.iter_mut() {
            stream.capture = None;
        }
    }

    /// The error of an earlier fault, which every later call repeats.
    pub fn check(&self) -> Outcome {
        self.sticky.clone().map_or(Ok(()), Err)
    }

    /// Keeps what a kernel's, copy's or graph's failure leaves behind.
    pub fn note(&mut self, outcome: Outcome) -> Outcome {
        if let Err(failure) = &outcome {
            if self.report.is_empty() {
                self.report.clone_from(&failure.message);
            }
            if failure.is_sticky() && self.sticky.is_none() {
                self.sticky = Some(failure.clone());
            }
        }
        outcome
    }

    /// Whether a handle is one of this device's.
    pub fn owns(&self, handle: Handle) -> bool {
        handle >> 40 == self.ordinal as u64 + 1
    }

    pub fn new_handle(&self) -> Handle {
        new_handle(self.ordinal)
    }
}

fn new_machine(mode: Mode) -> Machine {
    let mut machine = Machine::new(mode);
    if let Some(bytes) = Settings::or_usual().memory {
        machine.set_capacity(bytes);
    }
    machine
}
