# Creates or upgrades the schema of Temporal's two databases, which exist and belong to its role; the password is in
# SQL_PASSWORD. An empty database has no version to upgrade from, so that the first upgrade fails and the schema is set
# up. Where it has one, the set-up fails and changes nothing.
set -eu

upgrade() {
    $tool update-schema -d "/etc/temporal/schema/postgresql/v12/$1/versioned"
}

for kind in temporal visibility; do
    database=temporal
    [ "$kind" = temporal ] || database=temporal_visibility
    tool="temporal-sql-tool --plugin postgres12 --ep postgres -p 5432 -u temporal --db $database"
    upgrade "$kind" || { $tool setup-schema -v 0.0 && upgrade "$kind"; }
done
