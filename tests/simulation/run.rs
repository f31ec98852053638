//! Seeds, one after the other, on every processor.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    agree,
    life::{End, live},
    mutations, regressions, say, scan,
    scenario::Scenario,
    world::World,
};

/// What one seed came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ran {
    pub(crate) trace: u64,
    pub(crate) lines: u64,
    pub(crate) lives: u32,
    pub(crate) attempts: u64,
    pub(crate) sums: [u64; 6],
    pub(crate) violations: Vec<String>,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, verbose: bool) -> Ran {
    let world = Arc::new(World::new(Scenario::of(seed), verbose));
    if verbose {
        say(format_args!("{:#?}", world.plan));
    }
    let ended = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..10_000 {
            if live(&world) == End::Done {
                return true;
            }
        }
        false
    }));
    let mut violations = world.state_after().books.violations.clone();
    match ended {
        Ok(true) => (),
        Ok(false) => violations.push("it never came to an end".into()),
        Err(_panic) => violations.push("a panic; see above".into()),
    }
    let (trace, lines) = world.trace();
    let state = world.state_after();
    let (attempts, sums) = (state.books.attempts, state.sums());
    Ran { trace, lines, lives: state.life, attempts, sums, violations }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

pub(crate) fn main() -> ExitCode {
    if let Some(seed) = number("SEED") {
        let ran = run(seed, true);
        say(format_args!("{ran:#?}"));
        return if ran.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(tree) = env::var_os("MUTATE") {
        return told(
            mutations::put_into(Path::new(&tree), true).map(|count| format!("{count} bugs are put in")),
        );
    }
    if env::var_os("CHECKS").is_none() && checks() == ExitCode::FAILURE {
        return ExitCode::FAILURE;
    }
    campaign(number("START").unwrap_or(0), number("SEEDS").unwrap_or(1_000))
}

fn told(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(words) => {
            say(format_args!("{words}"));
            ExitCode::SUCCESS
        }
        Err(words) => {
            say(format_args!("FAILED: {words}"));
            ExitCode::FAILURE
        }
    }
}

/// What the simulation stands on; the first that does not hold is the failure.
fn checks() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    told((|| {
        scan::finds()?;
        let (wrong, files) = scan::scan(&root.join("src"));
        if !wrong.is_empty() {
            return Err(format!("a run would depend on more than its seed:\n{}", wrong.join("\n")));
        }
        let mutations = mutations::put_into(root, false)?;
        let (sequences, start) = (number("SEQUENCES").unwrap_or(100), number("START").unwrap_or(0));
        let verbs = agree::agree(sequences, start)?;
        Ok(format!(
            "{files} files depend on nothing but their inputs; {mutations} mutations fit; the simulated queue answered \
             {verbs} verbs of {sequences} sequences as the real one did"
        ))
    })())
}

fn campaign(start: u64, seeds: u64) -> ExitCode {
    let began = clock();
    let next = AtomicU64::new(start);
    let failed: Mutex<Vec<(u64, Ran)>> = Mutex::default();
    let total: Mutex<(u64, Ran)> = Mutex::default();
    let most = number("FIRST").map_or(10, |_| 1);
    for (seed, found) in regressions::SEEDS {
        let (ran, again) = (run(seed, false), run(seed, false));
        if !ran.violations.is_empty() || ran.trace != again.trace {
            say(format_args!("seed {seed} FAILED again, which once found {found}: {:?}", ran.violations));
            return ExitCode::FAILURE;
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - start >= seeds || failed.lock().unwrap().len() >= most {
                return;
            }
            let ran = run(seed, false);
            if seed.is_multiple_of(50) && run(seed, false).trace != ran.trace {
                let violations = vec!["two runs of it differ".to_owned()];
                failed.lock().unwrap().push((seed, Ran { violations, ..ran.clone() }));
            }
            let mut total = total.lock().unwrap();
            total.0 += 1;
            total.1.lives += ran.lives;
            total.1.attempts += ran.attempts;
            total.1.lines += ran.lines;
            for (sum, one) in total.1.sums.iter_mut().zip(ran.sums) {
                *sum += one;
            }
            drop(total);
            if !ran.violations.is_empty() {
                failed.lock().unwrap().push((seed, ran));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let took = (clock() - began).as_secs_f64();
    let (count, sum) = total.into_inner().unwrap();
    let [well, dead, held, lost, handed, replayed] = sum.sums;
    #[expect(clippy::cast_precision_loss, reason = "for a person")]
    let rate = count as f64 / took;
    say(format_args!(
        "{count} seeds in {took:.1} s ({rate:.0} seeds/s): {} lives, {} attempts; deliveries: {well} answered well, \
         {dead} dead letters, {held} held, {replayed} replayed; {handed} letters given to a handler function; {lost} \
         messages given back to a source that never repeats",
        sum.lives, sum.attempts
    ));
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, ran) in &failed {
        let mut violations = ran.violations.iter();
        say(format_args!("seed {seed} FAILED: {}", violations.next().map_or("", String::as_str)));
        for violation in violations.take(4) {
            say(format_args!("    {violation}"));
        }
        say(format_args!("    replay it: make simulate SEED={seed}"));
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it took in fact, which decides nothing but when to end"
)]
fn clock() -> Instant {
    Instant::now()
}
