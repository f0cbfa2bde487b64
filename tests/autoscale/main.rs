//! Half an hour of each load in virtual time: what scales, how soon, how often.
//!
//! `bench` draws the same runs: `cargo run -p sarit-bench -- autoscale`.

use sarit_controller::{AutoScale, Profile};
use sarit_tests::autoscale::{Outcome, Promise, SCENARIOS, Scenario, optimum, run, run_with_crash};

/// Any will do: what is promised holds for all.
const SEED: u64 = 7;

fn scenario(name: &str) -> &'static Scenario {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.expect("a scenario of that name")
}

/// Runs a scenario, says what happened, and holds it to its promise.
fn check(name: &str) -> Outcome {
    let scenario = scenario(name);
    let outcome = run(scenario, &AutoScale::default(), SEED);
    let outcome = outcome.expect("the world lives to its end");
    let changes = outcome.scalings.len();
    let best = optimum(scenario).changes;
    println!(
        "{name}: {changes} changes (optimum {best}), reaction {:?} s",
        outcome.reaction(scenario.begins)
    );
    for scaling in &outcome.scalings {
        println!("  {scaling:?}");
    }
    match scenario.promise {
        Promise::Still => assert_eq!(changes, 0),
        Promise::StillAfterTenMinutes => {
            assert!(changes > 0, "nothing happened at all");
            assert!(outcome.scalings.iter().all(|scaling| scaling.at <= 600));
        }
        Promise::NearOptimum => {
            assert!(best > 0 && changes > 0);
            assert!(
                2 * changes <= 3 * best,
                "{changes} changes, the optimum has {best}"
            );
        }
    }
    outcome
}

#[test]
fn a_step_to_five_times_the_target_is_met_within_fifteen_seconds() {
    let outcome = check("step");
    assert!(outcome.reaction(300).unwrap() <= 15);
    assert!(outcome.samples.last().unwrap().segments >= 5);
}

#[test]
fn a_ramp_is_followed_in_few_steps() {
    let outcome = check("ramp");
    assert!(outcome.samples.last().unwrap().segments >= 7);
}

#[test]
fn a_spike_is_met_and_given_back() {
    let outcome = check("spike");
    assert!(outcome.reaction(300).unwrap() <= 15);
    let most = outcome
        .samples
        .iter()
        .map(|sample| sample.segments)
        .max()
        .unwrap();
    assert!(outcome.samples.last().unwrap().segments < most);
}

#[test]
fn a_sine_is_followed_in_few_steps() {
    check("sine");
}

#[test]
fn zipf_keys_come_to_rest() {
    check("zipf");
}

#[test]
fn one_hot_key_comes_to_rest() {
    check("hot key");
}

#[test]
fn steady_load_changes_nothing() {
    check("steady 0.95");
    check("steady 1.05");
    check("steady 1.05, 2/s");
}

#[test]
fn a_crash_of_everything_makes_no_load_forgotten() {
    let step = scenario("step");
    let outcome = run_with_crash(step, &AutoScale::default(), SEED, Some(1_200)).unwrap();
    let after = outcome
        .scalings
        .iter()
        .filter(|scaling| scaling.at >= 1_200);
    assert_eq!(after.count(), 0, "{:?}", outcome.scalings);
    assert!(outcome.samples.last().unwrap().segments >= 5);
}

#[test]
fn the_official_rule_waits_ten_minutes() {
    let step = scenario("step");
    let settings = AutoScale {
        profile: Profile::Pravega,
        ..AutoScale::default()
    };
    let outcome = run(step, &settings, SEED).unwrap();
    println!("step, by the official rule: {:?}", outcome.scalings);
    assert!((300..420).contains(&outcome.reaction(300).unwrap()));
}
