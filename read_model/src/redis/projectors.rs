//! What the projectors report about themselves: one small hash, without those that have not reported lately.

use ::redis::cmd;

use super::Redis;
use super::keys::PROJECTORS;
use crate::status::{REPORTED_WITHIN, in_order};
use crate::{Error, ProjectorStatus};

impl Redis {
    /// Stores a report with its time, on the clock of the server.
    pub(super) async fn report_projector(&self, status: &ProjectorStatus) -> Result<(), Error> {
        let script = "local time = redis.call('TIME')
            local now = time[1] * 1000 + math.floor(time[2] / 1000)
            local reports = redis.call('HGETALL', KEYS[1])
            for i = 1, #reports, 2 do
                local at = tonumber(string.match(reports[i + 1], '^%d+')) or 0
                if at < now - ARGV[3] then redis.call('HDEL', KEYS[1], reports[i]) end
            end
            redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now, ARGV[2]))
            redis.call('PEXPIRE', KEYS[1], ARGV[3])
            return 1";
        let text = serde_json::to_string(status).map_err(|error| Error::Damaged(error.to_string()))?;
        let mut report = cmd("EVAL");
        report.arg(script).arg(1).arg(PROJECTORS).arg(status.id.to_string()).arg(text);
        report.arg(REPORTED_WITHIN.as_millis() as u64);
        let _: i64 = report.query_async(&mut self.connection()).await.map_err(|error| self.write_failed(error))?;
        Ok(())
    }

    /// The projectors that have reported lately. A report of another release that cannot be read is left out.
    pub(super) async fn projectors(&self) -> Result<Vec<ProjectorStatus>, Error> {
        let script = "local time = redis.call('TIME')
            local now = time[1] * 1000 + math.floor(time[2] / 1000)
            local recent = {}
            for _, report in ipairs(redis.call('HVALS', KEYS[1])) do
                local at = tonumber(string.match(report, '^%d+')) or 0
                if at >= now - ARGV[1] then table.insert(recent, report) end
            end
            return recent";
        let mut read = cmd("EVAL");
        read.arg(script).arg(1).arg(PROJECTORS).arg(REPORTED_WITHIN.as_millis() as u64);
        let reports: Vec<String> = read.query_async(&mut self.connection()).await?;
        let status = |report: &String| serde_json::from_str(report.split_once(' ')?.1).ok();
        Ok(in_order(reports.iter().filter_map(status).collect()))
    }
}
