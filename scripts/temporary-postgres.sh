# Sourced by scripts that need a PostgreSQL of their own: starts one in the directory $work with the arguments as settings, creates the
# tables, and stops it when the script ends. $PROGRAMS, where it is set, names a directory with a program `migration` to use instead of
# building it.
# shellcheck shell=bash

scripts/install cc=build-essential initdb=postgresql
if [ -z "${PROGRAMS:-}" ]; then
    # As scripts/test builds it, so that nothing is compiled twice.
    cargo build --quiet --locked --workspace --features api/failpoints,projector/failpoints --bin migration
    PROGRAMS=${CARGO_TARGET_DIR:-target}/debug
fi
work=$(mktemp -d)
as_user=()
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root
    scripts/install sudo=sudo
    chown postgres "$work"
    as_user=(sudo -u postgres)
fi
PATH=$PATH:$(printf '%s:' /usr/lib/postgresql/*/bin)

postgres() {
    (cd "$work" && "${as_user[@]}" env PATH="$PATH" "$@")
}

start_postgres() {
    trap 'postgres pg_ctl --silent --pgdata data --mode immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
    postgres initdb --pgdata data --username orders --auth trust --no-sync >/dev/null
    local options="-c listen_addresses='' -c unix_socket_directories='$work'" setting
    for setting in "$@"; do
        options="$options -c $setting"
    done
    postgres pg_ctl --silent --pgdata data --log output --wait --options "$options" start >/dev/null
    postgres createdb --host "$work" --username orders orders
    DATABASE_URL="postgres://orders@localhost/orders?host=$work" "$PROGRAMS/migration" up >/dev/null
}
