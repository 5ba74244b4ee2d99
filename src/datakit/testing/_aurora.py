"""SQL with which a PostgreSQL says what an Aurora PostgreSQL says of itself."""

from collections.abc import Mapping

ADDED = "select 1 from pg_proc where proname = 'aurora_replica_status'"
"""Gives a row where the statements have arrived."""

_INSTANCE = """
create or replace function pg_catalog.aurora_db_instance_identifier() returns text
stable language sql as $$
    select i.id from (values {instances}) as i (address, id)
    where i.address = current_setting('cluster_name')
$$
"""

_STATUS = """
create or replace function pg_catalog.aurora_replica_status(
    out server_id text, out session_id text, out last_update_timestamp timestamptz,
    out replica_lag_in_msec float8, out cpu float8
) returns setof record
stable security definer language sql as $$
    select i.id,
        case i.address when w.address then 'MASTER_SESSION_ID' else md5(i.id)::uuid::text end,
        now(), case i.address when w.address then null else 10.0 end, 5.0
    from (values {instances}) as i (address, id),
    (
        select case
            when pg_is_in_recovery()
            then substring(current_setting('primary_conninfo') from 'host=(\\S+)')
            when reset_val = 'off' then current_setting('cluster_name')
        end
        from pg_show_all_settings() where name = 'default_transaction_read_only'
    ) as w (address)
$$
"""

_SETTINGS = """
create or replace view pg_catalog.pg_settings as
select * from pg_show_all_settings()
union all select 'rds.extensions', 'aurora_stat_utils',
    null, null, null, null, 'sighup', 'string', 'configuration file',
    null, null, null, null, 'aurora_stat_utils', null, null, false
"""
"""PostgreSQL shows no setting there that it does not know."""


def imitation(instances: Mapping[str, str]) -> list[str]:
    """Return the statements, for one database of a primary.

    instances: address of a node, which is its `cluster_name`, to identifier.

    Source: the queries of aws-advanced-python-wrapper, database_dialect.py, AuroraPgDialect.
    """
    rows = ", ".join(f"('{address}', '{name}')" for address, name in instances.items())
    return [
        "set allow_system_table_mods = on",
        _INSTANCE.format(instances=rows),
        _STATUS.format(instances=rows),
        _SETTINGS,
    ]
