//! The Lua scripts. Redis runs each as one atomic step.

use ::redis::{ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};

use super::connection::Connection;

pub struct Scripts {
    pub apply: Script,
    pub apply_product: Script,
    pub read_ranking: Script,
    pub scan_hash: Script,
    pub replace_client: Script,
    pub save_generations: Script,
    pub fence: Script,
}

impl Scripts {
    pub fn new() -> Scripts {
        Scripts {
            apply: Script::new(include_str!("scripts/apply.lua")),
            apply_product: Script::new(include_str!("scripts/apply_product.lua")),
            read_ranking: Script::new(include_str!("scripts/read_ranking.lua")),
            scan_hash: Script::new(include_str!("scripts/scan_hash.lua")),
            replace_client: Script::new(include_str!("scripts/replace_client.lua")),
            save_generations: Script::new(include_str!("scripts/save_generations.lua")),
            fence: Script::new(include_str!("scripts/fence.lua")),
        }
    }

    /// Loads the scripts that pipelines call by their hash: a new or restarted server does not have them.
    pub async fn load(&self, connection: &mut Connection) -> RedisResult<()> {
        for script in [&self.apply, &self.apply_product, &self.read_ranking, &self.scan_hash] {
            script.load_async(connection).await?;
        }
        Ok(())
    }
}

/// Returns whether the server does not have a script.
pub fn is_not_loaded(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns whether a script was given the wrong fencing token.
pub fn is_stale(error: &RedisError) -> bool {
    error.code() == Some("STALE")
}
