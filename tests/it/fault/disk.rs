//! What a disk holds after the power was cut at some moment of a process's life.
//!
//! The process runs under `strace`, which notes every call that changes files, with its bytes and
//! times. The disk is then played back up to the cut, and what was not synced by then is lost, or
//! torn, or there, by chance: content is durable when a sync of the file returned, a name when a
//! sync of its folder did. Writes of one file may survive without those before them; changes of one
//! folder survive in order, as journals keep them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A call that changed the disk, with the microseconds at which it began and returned.
#[derive(Debug)]
struct Event {
    begin: u64,
    end: u64,
    call: Call,
}

#[derive(Debug)]
enum Call {
    Open { path: PathBuf, fd: i64, truncate: bool, append: bool },
    Write { path: PathBuf, fd: i64, at: Option<u64>, bytes: Vec<u8> },
    Sync { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    Mkdir { path: PathBuf },
    Truncate { path: PathBuf, length: u64 },
}

/// The arguments for `strace` that make it write what [`Disk::read`] reads.
pub(crate) const STRACE: [&str; 10] = [
    "-ff",
    "-ttt",
    "-T",
    "-y",
    "-xx",
    "-s",
    "100000000",
    "-qq",
    "-e",
    "trace=openat,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,\
     linkat,unlink,unlinkat,mkdir,mkdirat,ftruncate",
];

/// Everything that happened to one folder.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    events: Vec<Event>,
}

impl Disk {
    /// Reads the traces `<prefix>.<thread>` of a process that worked in `root`.
    pub(crate) fn read(prefix: &Path, root: &Path) -> Self {
        let name = format!("{}.", prefix.file_name().unwrap().to_string_lossy());
        let mut events = Vec::new();
        for entry in std::fs::read_dir(prefix.parent().unwrap()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                events.extend(text.lines().filter_map(|line| parse(line, root)));
            }
        }
        events.sort_by_key(|event| event.begin);
        Self { root: root.to_owned(), events }
    }

    /// How many calls there are.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// A moment within or right after a call.
    pub(crate) fn moment(&self, index: usize, random: u64) -> u64 {
        let event = &self.events[index];
        event.begin + random % (event.end - event.begin + 2)
    }

    /// Writes into `folder` what is left after a cut at `moment`.
    pub(crate) fn after_cut(&self, moment: u64, random: &mut Random, folder: &Path) {
        let mut state = State::new(&self.root);
        for event in self.events.iter().take_while(|event| event.begin <= moment) {
            state.play(event, moment);
        }
        state.cut(random);
        state.write(ROOT, folder);
    }
}

/// Numbers by chance, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }
}

const ROOT: usize = 0;

/// A change of a file's content, and when it was made.
#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// A change of a folder's names.
#[derive(Debug)]
enum Naming {
    Add(String, usize),
    Remove(String),
    Move(String, String, usize),
}

/// A file or a folder: what is durable, and what is not yet.
#[derive(Debug, Default)]
struct Node {
    is_folder: bool,
    content: Vec<u8>,
    changes: Vec<(u64, Change)>,
    /// Where an appending write goes.
    length: u64,
    names: BTreeMap<String, usize>,
    namings: Vec<(u64, Naming)>,
    /// Names as the process sees them.
    live: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    nodes: Vec<Node>,
    /// Position of each descriptor in its file, and whether it appends. The file is part of the
    /// key: while one thread opens a file, another may still write to the one that had its number.
    open: BTreeMap<(i64, usize), (u64, bool)>,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, bytes) => {
            let at = usize::try_from(*at).unwrap();
            content.resize(content.len().max(at + bytes.len()), 0);
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Length(length) => content.resize(usize::try_from(*length).unwrap(), 0),
    }
}

fn rename(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    match naming {
        Naming::Add(name, node) => drop(names.insert(name.clone(), *node)),
        Naming::Remove(name) => drop(names.remove(name)),
        Naming::Move(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

impl State {
    fn new(root: &Path) -> Self {
        let folder = Node { is_folder: true, ..Node::default() };
        Self { root: root.to_owned(), nodes: vec![folder], open: BTreeMap::new() }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let inside = path.strip_prefix(&self.root).ok()?;
        inside.iter().try_fold(ROOT, |node, name| {
            self.nodes[node].live.get(&*name.to_string_lossy()).copied()
        })
    }

    /// The folder of a path, and its last name.
    fn place(&self, path: &Path) -> Option<(usize, String)> {
        let folder = self.find(path.parent()?)?;
        Some((folder, path.file_name()?.to_string_lossy().into_owned()))
    }

    fn name(&mut self, folder: usize, at: u64, naming: Naming) {
        rename(&mut self.nodes[folder].live, &naming);
        self.nodes[folder].namings.push((at, naming));
    }

    fn make(&mut self, path: &Path, at: u64, is_folder: bool) -> Option<usize> {
        let (folder, name) = self.place(path)?;
        self.nodes.push(Node { is_folder, ..Node::default() });
        let node = self.nodes.len() - 1;
        self.name(folder, at, Naming::Add(name, node));
        Some(node)
    }

    fn change(&mut self, node: usize, at: u64, change: Change) {
        let node = &mut self.nodes[node];
        node.length = match &change {
            Change::Write(begin, bytes) => node.length.max(begin + bytes.len() as u64),
            Change::Length(length) => *length,
        };
        node.changes.push((at, change));
    }

    fn play(&mut self, event: &Event, moment: u64) {
        let at = event.end;
        // A path that cannot be found is of another folder, or was deleted while open.
        let _outside = match &event.call {
            Call::Open { path, fd, truncate, append } => {
                let node = self.find(path).or_else(|| self.make(path, at, false));
                node.map(|node| {
                    if *truncate {
                        self.change(node, at, Change::Length(0));
                    }
                    self.open.insert((*fd, node), (0, *append));
                })
            }
            Call::Write { path, fd, at: place, bytes } => self.find(path).map(|node| {
                let open = self.open.get_mut(&(*fd, node));
                let begin = place.unwrap_or(match open {
                    Some((position, false)) => *position,
                    _ => self.nodes[node].length,
                });
                if place.is_none()
                    && let Some((position, _)) = open
                {
                    *position = begin + bytes.len() as u64;
                }
                self.change(node, at, Change::Write(begin, bytes.clone()));
            }),
            Call::Sync { path } if at <= moment => {
                self.find(path).map(|node| self.sync(node, event.begin))
            }
            // It had not returned.
            Call::Sync { .. } => None,
            Call::Rename { from, to } => self.place(from).zip(self.place(to)).and_then(|two| {
                let ((folder, from), (other, to)) = two;
                assert_eq!(folder, other, "a rename into another folder is not played");
                let node = *self.nodes[folder].live.get(&from)?;
                self.name(folder, at, Naming::Move(from, to, node));
                Some(())
            }),
            Call::Link { from, to } => self.find(from).zip(self.place(to)).map(|found| {
                let (node, (folder, name)) = found;
                self.name(folder, at, Naming::Add(name, node));
            }),
            Call::Unlink { path } => self.place(path).map(|(folder, name)| {
                self.name(folder, at, Naming::Remove(name));
            }),
            Call::Mkdir { path } => self.make(path, at, true).map(|_| ()),
            Call::Truncate { path, length } => {
                self.find(path).map(|node| self.change(node, at, Change::Length(*length)))
            }
        };
    }

    /// Everything that had returned when the sync began is durable.
    fn sync(&mut self, node: usize, begin: u64) {
        let node = &mut self.nodes[node];
        let changes = std::mem::take(&mut node.changes);
        let (done, pending): (Vec<_>, Vec<_>) = changes.into_iter().partition(|c| c.0 <= begin);
        done.iter().for_each(|(_, change)| apply(&mut node.content, change));
        node.changes = pending;
        let namings = std::mem::take(&mut node.namings);
        let (done, pending): (Vec<_>, Vec<_>) = namings.into_iter().partition(|n| n.0 <= begin);
        done.iter().for_each(|(_, naming)| rename(&mut node.names, naming));
        node.namings = pending;
    }

    /// The power goes: what is not durable survives by chance.
    fn cut(&mut self, random: &mut Random) {
        for node in &mut self.nodes {
            for (_, change) in std::mem::take(&mut node.changes) {
                match (random.below(4), change) {
                    (0 | 1, change) => apply(&mut node.content, &change),
                    (2, Change::Write(at, bytes)) => {
                        let part = bytes[..random.below(bytes.len())].to_vec();
                        apply(&mut node.content, &Change::Write(at, part));
                    }
                    _ => {}
                }
            }
            let kept = random.below(node.namings.len() + 1);
            for (_, naming) in std::mem::take(&mut node.namings).into_iter().take(kept) {
                rename(&mut node.names, &naming);
            }
        }
    }

    fn write(&self, node: usize, place: &Path) {
        if !self.nodes[node].is_folder {
            return std::fs::write(place, &self.nodes[node].content).unwrap();
        }
        std::fs::create_dir_all(place).unwrap();
        for (name, inner) in &self.nodes[node].names {
            self.write(*inner, &place.join(name));
        }
    }
}

/// One line of a trace: `<seconds> <call>(<arguments>) = <result> <<duration>>`, or `… = ?` for a
/// call in which the process was killed: the system finishes what it has begun, a sync never
/// returned.
fn parse(line: &str, root: &Path) -> Option<Event> {
    let (seconds, rest) = line.split_once(' ')?;
    let begin = micros(seconds)?;
    let (call, result, duration) = match rest.strip_suffix(" = ?") {
        Some(call) => (call, i64::MAX, 0),
        None => {
            let (rest, duration) = rest.strip_suffix('>')?.rsplit_once(" <")?;
            let (call, result) = rest.rsplit_once(" = ")?;
            let result: i64 = result.split(['<', ' ']).next()?.parse().ok()?;
            (call, result, micros(duration)?)
        }
    };
    if result < 0 {
        return None;
    }
    let (name, arguments) = call.split_once('(')?;
    let arguments: Vec<&str> = arguments.trim_end().strip_suffix(')')?.split(", ").collect();
    let argument = |index: usize| arguments.get(index).copied();
    let path = |index: usize| argument(index).and_then(quoted).map(path_of);
    let of_fd = || argument(0).and_then(annotated).map(path_of);
    let fd = || argument(0)?.split('<').next()?.parse().ok();
    let call = match name {
        "openat" => {
            let flags = argument(2)?;
            let is_new = flags.contains("O_CREAT") || flags.contains("O_TRUNC");
            let is_written = is_new || flags.contains("O_WRONLY") || flags.contains("O_RDWR");
            let path = path(1).filter(|_| is_written)?;
            let (truncate, append) = (flags.contains("O_TRUNC"), flags.contains("O_APPEND"));
            Call::Open { path, fd: result, truncate, append }
        }
        "write" | "pwrite64" => {
            let mut bytes = unhex(quoted(argument(1)?)?);
            bytes.truncate(usize::try_from(result).ok()?);
            let at = (name == "pwrite64").then(|| argument(3)?.parse().ok()).flatten();
            Call::Write { path: of_fd()?, fd: fd()?, at, bytes }
        }
        "fsync" | "fdatasync" if result == i64::MAX => return None,
        "fsync" | "fdatasync" => Call::Sync { path: of_fd()? },
        "rename" | "link" => two(name, path(0)?, path(1)?),
        "renameat" | "renameat2" => two("rename", path(1)?, path(3)?),
        "linkat" => two("link", path(1)?, path(3)?),
        "unlink" => Call::Unlink { path: path(0)? },
        "unlinkat" => Call::Unlink { path: path(1)? },
        "mkdir" => Call::Mkdir { path: path(0)? },
        "mkdirat" => Call::Mkdir { path: path(1)? },
        "ftruncate" => Call::Truncate { path: of_fd()?, length: argument(1)?.parse().ok()? },
        other => {
            let inside = of_fd().is_some_and(|path| path.starts_with(root));
            assert!(!inside, "the call {other} is not played: {call}");
            return None;
        }
    };
    Some(Event { begin, end: begin + duration, call })
}

fn two(name: &str, from: PathBuf, to: PathBuf) -> Call {
    if name == "rename" { Call::Rename { from, to } } else { Call::Link { from, to } }
}

/// `1700000000.123456` in microseconds.
fn micros(seconds: &str) -> Option<u64> {
    let (whole, part) = seconds.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + part.parse::<u64>().ok()?)
}

/// What stands between quotes.
fn quoted(argument: &str) -> Option<&str> {
    argument.strip_prefix('"')?.strip_suffix('"')
}

/// The path of a descriptor, `5<…>`.
fn annotated(argument: &str) -> Option<&str> {
    argument.split_once('<')?.1.strip_suffix('>')
}

fn path_of(hex: &str) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(&unhex(hex)).into_owned())
}

/// `\x41\x42` as bytes.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks_exact(4).map(|four| digit(four[2]) << 4 | digit(four[3])).collect()
}

/// One thread writes to a file while another opens the next, which gets the number that the first
/// gives back in between: each write is played into its own file, at its own place.
#[test]
fn a_descriptor_that_changes_hands_is_played_right() {
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let line = |at: u32, call: String, result: &str, took: u32| {
        format!("1700000000.{at:06} {call} = {result} <0.{took:06}>\n")
    };
    let open = |path: &str| format!("openat(AT_FDCWD, \"{}\", O_WRONLY|O_CREAT, 0666)", hex(path));
    let write = |path: &str, text: &str| {
        format!("write(5<{}>, \"{}\", {})", hex(path), hex(text), text.len())
    };
    let sync = |path: &str| format!("fsync(5<{}>)", hex(path));
    let folder = tempfile::tempdir().unwrap();
    let one = line(10, open("/r/old"), "5", 5) + &line(30, write("/r/old", "longer"), "6", 5);
    let two = line(20, open("/r/new"), "5", 40)
        + &line(70, write("/r/new", "abc"), "3", 5)
        + &line(80, sync("/r/new"), "0", 5)
        + &line(90, format!("fsync(6<{}>)", hex("/r")), "0", 5);
    std::fs::write(folder.path().join("of.1"), one).unwrap();
    std::fs::write(folder.path().join("of.2"), two).unwrap();
    let disk = Disk::read(&folder.path().join("of"), Path::new("/r"));
    let left = folder.path().join("left");
    disk.after_cut(1_700_000_000_000_100, &mut Random(1), &left);
    assert_eq!(std::fs::read_to_string(left.join("new")).unwrap(), "abc");
}
