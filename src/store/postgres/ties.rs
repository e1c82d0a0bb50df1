//! Links and inquiries in the open transaction: a statement for each of the rules' words.

use tokio_postgres::types::Type;

use super::rows::text;
use super::tx::{Done, Tx};
use crate::model::Time;
use crate::signature;
use crate::store::rules::{InquiryRows, LOOKING_PARTNER, LinkRows, UNFINISHED_PARTNER};

const NUMBER: Type = Type::INT8;
const TEXT: Type = Type::TEXT;
const BYTES: Type = Type::BYTEA;
const YES_NO: Type = Type::BOOL;

impl LinkRows for Tx<'_> {
    fn insert_link_key(&mut self, rule: &str, side: &str, key: &str, execution: i64) -> Done {
        // Whoever looks for a partner by this key elsewhere waits until this one is seen, or the other way round.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || $1, 0))";
        self.rows(lock, &[(&format!(" callbackd link {rule} {}", signature::hex(key.as_bytes())), TEXT)])?;
        self.rows(
            "INSERT INTO link_keys (rule, side, key, execution) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[(&rule, TEXT), (&side, TEXT), (&key.as_bytes(), BYTES), (&execution, NUMBER)],
        )?;
        Ok(())
    }

    fn unfinished_partner(&mut self, rule: &str, key: &str, of: i64) -> Done<Option<i64>> {
        let sql = UNFINISHED_PARTNER.replace('?', "$");
        self.one(&sql, &[(&rule, TEXT), (&key.as_bytes(), BYTES), (&of, NUMBER)])
    }

    fn looking_partner(&mut self, rule: &str, key: &str, with: i64) -> Done<Option<i64>> {
        let sql = LOOKING_PARTNER.replace('?', "$");
        self.one(&sql, &[(&rule, TEXT), (&key.as_bytes(), BYTES), (&with, NUMBER)])
    }

    fn is_tied(&mut self, of: i64, with: i64) -> Done<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM links WHERE execution = $1 AND with_execution = $2)";
        Ok(self.one(sql, &[(&of, NUMBER), (&with, NUMBER)])?.unwrap_or(false))
    }

    fn links_of(&mut self, execution: i64) -> Done<usize> {
        let sql = "SELECT (SELECT count(*) FROM links WHERE execution = $1) + (SELECT count(*) FROM links WHERE with_execution = $1)";
        let count: Option<i64> = self.one(sql, &[(&execution, NUMBER)])?;
        Ok(count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0))
    }

    fn insert_link(&mut self, id: i64, rule: &str, of: i64, with: i64, now: Time) -> Done {
        // A try that settles at this instant either sees the link or is seen by it.
        self.lock(&[of, with])?;
        self.rows(
            "INSERT INTO links (id, rule, execution, with_execution, created_at) VALUES ($1, $2, $3, $4, $5)",
            &[(&id, NUMBER), (&rule, TEXT), (&of, NUMBER), (&with, NUMBER), (&now.micros(), NUMBER)],
        )?;
        Ok(())
    }

    fn wake_linked(&mut self, of: i64, now: Time, wake: &mut Vec<String>) -> Done {
        let now = self.at_once(now);
        let rows = self.change(
            "UPDATE deliveries SET due_at = $2, until_linked = FALSE
             WHERE execution = $1 AND finished_at IS NULL AND status = 'waiting' AND until_linked RETURNING sink",
            &[(&of, NUMBER), (&now, NUMBER)],
        )?;
        wake.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        Ok(())
    }
}

impl InquiryRows for Tx<'_> {
    fn expect(&mut self, source: &str, execution: i64, by: Time) -> Done {
        let to = &mut self.writes.expected;
        to.id.push(execution);
        to.source.push(source.to_owned());
        to.due_at.push(self.apart.of_server(by).micros());
        Ok(())
    }

    fn insert_held(&mut self, receipt: i64, source: &str, key: &str, due_at: Time) -> Done {
        let due_at = self.apart.of_server(due_at);
        self.rows(
            "INSERT INTO inquiries (id, source, key, due_at, leased, asked, failures) VALUES ($1, $2, $3, $4, FALSE, 0, 0)",
            &[(&receipt, NUMBER), (&source, TEXT), (&&*text(key), TEXT), (&due_at.micros(), NUMBER)],
        )?;
        Ok(())
    }

    fn line_due(&mut self, source: &str, key: &str) -> Done<Option<Time>> {
        let sql = "SELECT min(due_at) FROM inquiries WHERE source = $1 AND key = $2 AND NOT leased";
        let due: Option<i64> = self.one(sql, &[(&source, TEXT), (&&*text(key), TEXT)])?;
        Ok(due.map(|due| self.apart.of_here(Time::from_micros(due))))
    }

    fn line_waits(&mut self, receipt: i64, due_at: Time, now: Time) -> Done {
        let (due_at, now) = (self.apart.of_server(due_at), self.apart.of_server(now));
        self.rows(
            "UPDATE inquiries SET due_at = $2
             WHERE source = (SELECT source FROM inquiries WHERE id = $1) AND key = (SELECT key FROM inquiries WHERE id = $1)
               AND due_at <= $3 AND due_at < $2 AND NOT leased",
            &[(&receipt, NUMBER), (&due_at.micros(), NUMBER), (&now.micros(), NUMBER)],
        )?;
        Ok(())
    }

    fn asked(&mut self, id: i64, due_at: Option<Time>, answered: bool, marked: Option<Time>) -> Done {
        let due_at = due_at.map(|due| self.apart.of_server(due));
        self.rows(
            "UPDATE inquiries SET leased = FALSE, due_at = $2, asked = asked + $3::bool::int,
                    failures = CASE WHEN $3 THEN 0 ELSE failures + 1 END, overdue_at = coalesce(overdue_at, $4) WHERE id = $1",
            &[
                (&id, NUMBER),
                (&due_at.map(Time::micros), NUMBER),
                (&answered, YES_NO),
                (&marked.map(Time::micros), NUMBER),
            ],
        )?;
        Ok(())
    }

    fn delete_inquiry(&mut self, id: i64) -> Done {
        self.rows("DELETE FROM inquiries WHERE id = $1", &[(&id, NUMBER)])?;
        Ok(())
    }

    fn is_marked(&mut self, execution: i64) -> Done<Option<bool>> {
        self.one(
            "SELECT i.overdue_at IS NOT NULL FROM inquiries i JOIN execution_heads h ON h.id = i.id
             WHERE i.id = $1 AND h.status NOT IN ('succeeded', 'failed', 'cancelled') FOR UPDATE OF i",
            &[(&execution, NUMBER)],
        )
    }
}
