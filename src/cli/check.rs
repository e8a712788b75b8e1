//! `sluice check`: a line for each thing that assignment takes.

use console::Style;

use super::page::{Page, fit};
use crate::host::{Finding, Host, Status};

/// What was found out about this host, and whether it can assign devices.
pub fn check(host: &Host, page: Page) -> (String, bool) {
    let findings = host.check();
    let works = findings
        .iter()
        .all(|finding| finding.status != Status::Fail);
    (render(&findings, works, page), works)
}

fn render(findings: &[Finding], works: bool, page: Page) -> String {
    let mut text: String = findings.iter().map(|f| paragraph(f, page)).collect();
    text += match works {
        true => "\nDevices can be assigned on this host.\n",
        false => "\nNo device can be assigned on this host until what failed is mended.\n",
    };
    text
}

fn paragraph(finding: &Finding, page: Page) -> String {
    let (word, style) = match finding.status {
        Status::Ok => ("ok", Style::new().green()),
        Status::Warn => ("warn", Style::new().yellow()),
        Status::Fail => ("fail", Style::new().red().bold()),
    };
    let word = style.force_styling(page.colour()).apply_to(word);
    let start = fit(&word.to_string(), 6) + &fit(finding.topic, 21);
    let mut text = page.paragraph(&start, &finding.what);
    if let Some(remedy) = &finding.remedy {
        text += &page.paragraph(&fit("", 27), &format!("→ {remedy}"));
    }
    text
}

#[cfg(test)]
mod tests;
