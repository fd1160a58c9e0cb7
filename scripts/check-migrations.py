"""Checks that no migration blocks orders for longer than a second, however many rows there are, or breaks the release before.

Reads the statements in the log of a server, lints those of each migration with squawk, and looks for what squawk does not know:

- short-wait: a lock that blocks writes is waited for in short attempts (migration/src/short_locks.rs), because orders queue behind
  the one who waits.
- work-under-lock: nothing that takes longer with more rows runs in a transaction that has such a lock.
- check-of-new-column: PostgreSQL reads the whole table to check a constraint of a new column.
- rewritten-rows: no statement updates or deletes all rows of a table, because orders wait for the locks of its rows.

migration/exceptions.txt lists exceptions with their reasons.
"""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXCEPTIONS = Path("migration/exceptions.txt")
# A column that counts the events of one client can be an integer, and an index is built after DROP INDEX IF EXISTS.
UNSUITABLE = "prefer-bigint-over-int,prefer-robust-stmts"
# In milliseconds.
LONGEST_WAIT = 1000


def migrations(log):
    """The statements of each migration by its name. A migration ends with the row that says that it was applied."""
    found, statements = {}, []
    csv.field_size_limit(10**9)
    for row in csv.reader(log):
        statement = re.match(r"(?:statement|execute [^:]*): (.*)", row[13], re.S)
        if row[2] != "orders" or not statement:
            continue
        applied = re.search(r"\$1 = '(m\d+_\w+)'", row[14])
        if "seaql_migrations" in statement[1]:
            if applied:
                found[applied[1]] = statements
            statements = []
        elif statement[1] == "COMMIT" and not statements:
            found[next(reversed(found))].append("COMMIT")
        else:
            statements.append(statement[1])
    return found


def squawk(statements):
    """The rules of squawk that the statements break, each with a statement."""
    lines = [re.sub(r"\s+", " ", statement) for statement in ["SET lock_timeout = '3s'", "SET statement_timeout = 0", *statements]]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(";\n".join(lines) + ";\n")
        file.flush()
        command = ["squawk", "--pg-version", "13.0", "--exclude", UNSUITABLE, "--reporter", "json", file.name]
        output = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.returncode not in (0, 1) or not output.stdout.strip():
        sys.exit(f"squawk failed: {output.stderr}")
    for problem in json.loads(output.stdout):
        yield problem["rule_name"], lines[problem["line"]]


def locked_by(statement):
    """The tables that a statement locks against writes."""
    if statement.startswith("CREATE TABLE"):
        return re.findall(r"\bREFERENCES (\S+)", statement)
    for pattern in (
        r"ALTER TABLE (?:IF EXISTS )?(?!\S+ (?:VALIDATE CONSTRAINT|SET \())(\S+)",
        r"DROP TABLE (?:IF EXISTS )?(\S+)",
        r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)(?:IF NOT EXISTS )?\S+ ON (\S+)",
        r"DROP INDEX (?!CONCURRENTLY)(?:IF EXISTS )?(\S+)",
        r"(?:TRUNCATE|LOCK|CLUSTER|VACUUM FULL|VACUUM \(FULL\)|REINDEX)(?: TABLE| INDEX)? (?!CONCURRENTLY)(\S+)",
    ):
        if match := re.match(pattern, statement):
            return [match[1]]
    return []


def blocking(statements):
    """The rules of this file that the statements break, each with a statement."""
    created, in_transaction, wait, locked = set(), False, None, None
    for statement in (re.sub(r"\s+", " ", statement).replace('"', "") for statement in statements):
        if statement in ("BEGIN", "COMMIT"):
            in_transaction, wait, locked = statement == "BEGIN", None, None
        if timeout := re.match(r"SET LOCAL lock_timeout = '(\d+)ms'", statement):
            wait = int(timeout[1])
        changed = re.match(r"(?:UPDATE|DELETE FROM|INSERT INTO) (\S+)", statement)
        index = re.match(r"CREATE (?:UNIQUE )?INDEX .* ON (\S+)", statement)
        if locked and (changed or statement.startswith("SELECT") or index and index[1] not in created):
            yield "work-under-lock", f"{statement} (after {locked})"
        if changed and not statement.startswith("INSERT") and changed[1] not in created:
            yield "rewritten-rows", statement
        if re.search(r"ADD COLUMN(?:(?!ADD COLUMN).)*\b(?:CHECK|REFERENCES)\b", statement):
            yield "check-of-new-column", statement
        if set(locked_by(statement)) - created:
            if not in_transaction or wait is None or wait > LONGEST_WAIT:
                yield "short-wait", statement
            if in_transaction:
                locked = statement
        if name := re.match(r"CREATE TABLE (?:IF NOT EXISTS )?(\S+)", statement):
            created.add(name[1])


def exceptions():
    lines = [line for line in EXCEPTIONS.read_text().splitlines() if line and not line.startswith("#")]
    return {tuple(line.split(":", 1)[0].split()) for line in lines if len(line.split(":", 1)[1].strip()) > 10}


def main():
    with open(sys.argv[1], newline="") as log:
        applied = migrations(log)
    written = {path.stem for path in Path("migration/src/migrations").glob("m2*.rs")}
    problems = [f"{name}: not applied" for name in sorted(written - set(applied))]
    allowed, used = exceptions(), set()
    for name, statements in applied.items():
        for rule, statement in sorted({*squawk(statements), *blocking(statements)}):
            used.add((name, rule))
            if (name, rule) not in allowed:
                problems.append(f"{name}: {rule}: {statement}")
    problems += [f"{EXCEPTIONS}: not needed any more: {' '.join(exception)}" for exception in sorted(allowed - used)]
    print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    sys.exit(bool(problems))


main()
