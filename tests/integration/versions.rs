//! `MariaDB` of other versions than this machine's: the numbered cases, and what a version has that others have not.

use crate::cases;
use crate::differential::Stage;
use crate::harness::root::{MARIADB_10_5, MARIADB_11_8, Root};
use crate::rooted_trial;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        numbered(&MARIADB_11_8, "versions::cases_of_mariadb_11_8"),
        numbered(&MARIADB_10_5, "versions::cases_of_mariadb_10_5"),
    ]
}

fn numbered(home: &'static Root, name: &str) -> Trial {
    rooted_trial(home, name, move || {
        let name = format!("cases-{}", home.title.replace([' ', '.'], "-"));
        cases::all(Stage::set_up_in(Some(home), &name, cases::SPILLWAY, "guard")?)
    })
}
