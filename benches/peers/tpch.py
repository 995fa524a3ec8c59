"""TPC-H for the benchmark `tpch`: `tpch.py SYSTEM FOLDER` runs the 22 queries on the folder's Parquet files, each three times,
and prints `q1 seconds rows` with the least time. A query that the system refuses is printed with `nan`.

SYSTEM is polars (the plans that the benchmark left beside the tables), duckdb, datafusion, daft or daft-ray (tpch.sql)."""

import pathlib
import sys
import time

TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]


def queries():
    parts = pathlib.Path(__file__).with_name("tpch.sql").read_text().split("-- q")[1:]
    return {f"q{number}": text.strip().rstrip(";") for number, text in (part.split("\n", 1) for part in parts)}


def polars(folder):
    import polars

    def run(name):
        plan = polars.LazyFrame.deserialize(folder / f"{name}.plan")
        return plan.collect(engine="streaming").height

    return run


def duckdb(folder):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    for table in TABLES:
        connection.execute(f"create view {table} as select * from read_parquet('{folder / table}.parquet')")
    sql = queries()
    return lambda name: len(connection.execute(sql[name]).fetchall())


def datafusion(folder):
    import datafusion

    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(2))
    for table in TABLES:
        context.register_parquet(table, str(folder / f"{table}.parquet"))
    sql = queries()
    return lambda name: sum(batch.num_rows for batch in context.sql(sql[name]).collect())


def daft(folder, on_ray):
    import daft

    if on_ray:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        daft.set_runner_ray()
    tables = {table: daft.read_parquet(str(folder / f"{table}.parquet")) for table in TABLES}
    sql = queries()
    return lambda name: len(daft.sql(sql[name], **tables).to_arrow())


def main():
    system, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    systems = {
        "polars": lambda: polars(folder),
        "duckdb": lambda: duckdb(folder),
        "datafusion": lambda: datafusion(folder),
        "daft": lambda: daft(folder, False),
        "daft-ray": lambda: daft(folder, True),
    }
    run = systems[system]()
    for name in queries():
        times, rows = [], "nan"
        for _ in range(3):
            started = time.perf_counter()
            try:
                rows = run(name)
            except Exception as error:  # a peer's refusal is a result
                print(f"{system} {name}: {str(error).splitlines()[:1]}", file=sys.stderr)
                break
            times.append(time.perf_counter() - started)
        print(f"{name}.rows {rows}")
        print(name, min(times) if times else "nan")


if __name__ == "__main__":
    main()
