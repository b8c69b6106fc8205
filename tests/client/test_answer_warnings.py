"""The warnings of many requests as those of one."""

from bmaml_client.answer_warnings import merged_warnings

ADVICE = "; there the answer returns to the model's prior"


def far(rows, of, columns, advice=ADVICE):
    return f"{rows} of {of} query rows are far from what training saw: {columns}{advice}"


def test_counts_are_added_and_indices_count_from_the_first_request_s_rows():
    parts = [
        (100, []),
        (50, [far(2, 50, "age is 36 in row 7 (training: 49 to 85)")]),
        (
            30,
            [
                far(
                    3,
                    30,
                    "age is 30 in row 1 (training: 49 to 85), dose, mg is 9 in row 4 (training: 0 to 1)",
                )
            ],
        ),
    ]
    columns = "age is 36 in row 107 (training: 49 to 85), dose, mg is 9 in row 154 (training: 0 to 1)"
    assert merged_warnings(parts) == [far(5, 180, columns)]


def test_another_advice_is_another_warning_and_others_come_once():
    leans = "; there the model is untested"
    one, other = far(1, 2, "age is 36 in row 1 (training: 49 to 85)"), "the support set is empty"
    second = far(1, 3, "age is 37 in row 0 (training: 49 to 85)", leans)
    assert merged_warnings([(2, [other, one]), (3, [other, second])]) == [
        other,
        far(1, 5, "age is 36 in row 1 (training: 49 to 85)"),
        far(1, 5, "age is 37 in row 2 (training: 49 to 85)", leans),
    ]


def test_more_columns_than_are_named_are_still_told_of():
    columns = "a is 9 in row 0 (training: 0 to 1), and 3 more columns"
    assert merged_warnings([(1, [far(1, 1, columns)])]) == [far(1, 1, columns)]


def test_no_request_has_no_warning():
    assert merged_warnings([]) == []
