"""The settings that a query may bring: an allow-list of names, each with the values that it takes.

A setting of ClickHouse may be an SQL expression, the name of a file or an address, and new ones
come with each version. So only those are taken that are listed here, as a number, a switch or one
of a few words, and what reaches the engine is written anew from that value: no text of the caller
ever does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from esper.config import HistorySettings
from esper.history.confined.refusal import BAD_ARGUMENTS, READONLY, QueryError, refused

Value = int | str
"""A switch is 0 or 1."""

_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SWITCHES: Final = {"0": 0, "1": 1, "false": 0, "true": 1}
_MOST_PARAMETERS: Final = 1_000
_LARGEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one query may take. A caller's own setting may lower each of them, never raise it."""

    seconds: int = 60
    memory: int = 2 << 30
    rows: int = 10_000_000
    result: int = 256 << 20

    @classmethod
    def of(cls, settings: HistorySettings) -> QueryLimits:
        """As the installation's settings have them."""
        return cls(
            settings.query_s, settings.memory_bytes, settings.result_rows, settings.result_bytes
        )

    @property
    def settings(self) -> dict[str, int]:
        """As ClickHouse's settings."""
        return {
            "max_execution_time": self.seconds,
            "max_memory_usage": self.memory,
            "max_result_rows": self.rows,
            "max_result_bytes": self.result,
            "max_temporary_data_on_disk_size_for_query": self.memory,
        }


_LISTED: Final = """
aggregate_functions_null_for_empty allow_experimental_analyzer allow_experimental_dynamic_type
allow_experimental_json_type allow_experimental_time_time64_type allow_experimental_variant_type
allow_suspicious_low_cardinality_types allow_suspicious_types_in_group_by
allow_suspicious_types_in_order_by any_join_distinct_right_table_keys asterisk_include_alias_columns
asterisk_include_materialized_columns cast_keep_nullable data_type_default_nullable
date_time_64_output_format_cut_trailing_zeros_align_to_groups_of_thousands describe_compact_output
empty_result_for_aggregation_by_empty_set enable_analyzer enable_dynamic_type enable_json_type
enable_time_time64_type enable_variant_type extremes format_csv_allow_double_quotes
format_csv_allow_single_quotes formatdatetime_f_prints_single_zero
formatdatetime_parsedatetime_m_is_month_name group_by_use_nulls join_use_nulls
output_format_arrow_date_as_uint16 output_format_arrow_fixed_string_as_fixed_byte_array
output_format_arrow_low_cardinality_as_dictionary output_format_arrow_string_as_string
output_format_arrow_use_64_bit_indexes_for_dictionary
output_format_arrow_use_signed_indexes_for_dictionary
output_format_binary_encode_types_in_binary_format output_format_binary_write_json_as_string
output_format_csv_crlf_end_of_line output_format_decimal_trailing_zeros
output_format_enable_streaming output_format_json_array_of_rows
output_format_json_escape_forward_slashes output_format_json_map_as_array_of_tuples
output_format_json_named_tuples_as_objects output_format_json_pretty_print
output_format_json_quote_64bit_floats output_format_json_quote_64bit_integers
output_format_json_quote_decimals output_format_json_quote_denormals
output_format_json_skip_null_value_in_named_tuples output_format_json_validate_utf8
output_format_markdown_escape_special_characters output_format_native_encode_types_in_binary_format
output_format_native_use_flattened_dynamic_and_json_serialization
output_format_native_write_json_as_string output_format_parallel_formatting
output_format_parquet_compliant_nested_types output_format_parquet_date_as_uint16
output_format_parquet_datetime_as_uint32 output_format_parquet_fixed_string_as_fixed_byte_array
output_format_parquet_string_as_string output_format_pretty_display_footer_column_names
output_format_pretty_highlight_digit_groups output_format_pretty_row_numbers
output_format_tsv_crlf_end_of_line output_format_values_escape_quote_with_quote
output_format_write_statistics prefer_column_name_to_alias transform_null_in
use_variant_as_common_type use_uncompressed_cache
"""
_SWITCH_NAMES: Final = frozenset(_LISTED.split())

_NUMBER_NAMES: Final = {
    "group_by_two_level_threshold": _LARGEST,
    "limit": _LARGEST,
    "max_block_size": 1 << 20,
    "max_bytes_before_external_group_by": _LARGEST,
    "max_bytes_before_external_sort": _LARGEST,
    "max_bytes_in_join": _LARGEST,
    "max_bytes_to_read": _LARGEST,
    "max_columns_to_read": _LARGEST,
    "max_execution_time": _LARGEST,
    "max_memory_usage": _LARGEST,
    "max_query_size": 256 << 10,
    "max_result_bytes": _LARGEST,
    "max_result_rows": _LARGEST,
    "max_rows_in_join": _LARGEST,
    "max_rows_in_set": _LARGEST,
    "max_rows_to_group_by": _LARGEST,
    "max_rows_to_read": _LARGEST,
    "max_rows_to_sort": _LARGEST,
    "max_threads": 64,
    "offset": _LARGEST,
    "output_format_float_precision": 100,
    "output_format_parquet_row_group_size": 1 << 24,
    "output_format_pretty_color": 1,
    "output_format_pretty_max_rows": 1 << 24,
    "output_format_pretty_max_value_width": 1 << 24,
    "preferred_block_size_bytes": 1 << 30,
    "priority": 100,
}

_OVERFLOW: Final = ("throw", "break")
_WORD_NAMES: Final = {
    "date_time_input_format": ("basic", "best_effort", "best_effort_us"),
    "date_time_output_format": ("simple", "iso", "unix_timestamp"),
    "group_by_overflow_mode": (*_OVERFLOW, "any"),
    "join_algorithm": (
        "default",
        "auto",
        "hash",
        "parallel_hash",
        "partial_merge",
        "full_sorting_merge",
        "grace_hash",
    ),
    "join_default_strictness": ("ALL", "ANY", ""),
    "join_overflow_mode": _OVERFLOW,
    "output_format_arrow_compression_method": ("none", "lz4_frame", "zstd"),
    "output_format_msgpack_uuid_representation": ("ext", "str", "bin"),
    "output_format_parquet_compression_method": ("none", "snappy", "zstd", "gzip", "lz4", "brotli"),
    "output_format_pretty_grid_charset": ("UTF-8", "ASCII"),
    "read_overflow_mode": _OVERFLOW,
    "result_overflow_mode": _OVERFLOW,
    "session_timezone": ("", "UTC", "Etc/UTC"),
    "sort_overflow_mode": _OVERFLOW,
    "timeout_overflow_mode": _OVERFLOW,
    "totals_mode": (
        "before_having",
        "after_having_inclusive",
        "after_having_exclusive",
        "after_having_auto",
    ),
    "union_default_mode": ("", "ALL", "DISTINCT"),
}

NAMES: Final = frozenset({*_SWITCH_NAMES, *_NUMBER_NAMES, *_WORD_NAMES})
"""Every setting that a query may bring."""


def typed(settings: Mapping[str, str], limits: QueryLimits) -> dict[str, Value]:
    """A caller's settings as values, within the limits.

    Raises:
        QueryError: a name is not on the list (ClickHouse's code 164), or a value is not one that it
            takes (36).
    """
    values = {name: _value(name, text) for name, text in settings.items()}
    for name, most in limits.settings.items():
        given = values.get(name, 0)
        values[name] = (
            # A caller may ask for less than the limit, never for more.
            min(given, most) if isinstance(given, int) and given else most
        )  # 0 would mean without limit
    return values


def statement(values: Mapping[str, Value]) -> str:
    """The SET statement of typed values."""
    return "SET " + ", ".join(
        f"{name} = {value}" if isinstance(value, int) else f"{name} = '{value}'"
        for name, value in values.items()
    )


def checked_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """The values of a query's `{name:Type}`, if their names are names and no value has a NUL.

    Values go to the engine beside the query.

    Raises:
        QueryError: one is not (ClickHouse's code 36).
    """
    if len(parameters) > _MOST_PARAMETERS:
        raise refused(BAD_ARGUMENTS, f"A query takes at most {_MOST_PARAMETERS} parameters.")
    for name, value in parameters.items():
        if not _PARAMETER.fullmatch(name):
            raise refused(
                BAD_ARGUMENTS,
                "The name of a query parameter is letters, digits and underscores, at most 128.",
            )
        if "\0" in value:
            raise refused(BAD_ARGUMENTS, f"The query parameter {name} has a NUL character.")
    return dict(parameters)


def _value(name: str, text: str) -> Value:
    text = text.strip()
    if name in _SWITCH_NAMES:
        if text.lower() in _SWITCHES:
            return _SWITCHES[text.lower()]
        raise _unfit(name, "0 or 1")
    if (most := _NUMBER_NAMES.get(name)) is not None:
        if _NUMBER.fullmatch(text) and int(text) <= most:
            return int(text)
        raise _unfit(name, f"a whole number up to {most}")
    if (words := _WORD_NAMES.get(name)) is not None:
        if text in words:
            return text
        raise _unfit(name, "one of " + ", ".join(repr(word) for word in words))
    shown = "".join(
        character for character in name[:60] if character.isascii() and character.isprintable()
    )
    raise refused(
        READONLY,
        (
            f"Cannot modify '{shown}' setting in readonly mode: the history takes only "
            "settings that cannot reach outside of it."
        ),
    )


def _unfit(name: str, takes: str) -> QueryError:
    return refused(BAD_ARGUMENTS, f"The setting {name} takes {takes}.")
