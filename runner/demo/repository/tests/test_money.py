import unittest

from fairshare import format_cents, parse_amount


class MoneyTest(unittest.TestCase):
    def test_amounts_are_read_as_cents(self):
        self.assertEqual([parse_amount(text) for text in ("12", "12.5", "-0.05")], [1200, 1250, -5])

    def test_what_is_no_amount_is_refused(self):
        with self.assertRaises(ValueError):
            parse_amount("12,50")

    def test_formatting_is_the_way_back(self):
        for cents in (0, 5, -5, 1200, 123456):
            self.assertEqual(parse_amount(format_cents(cents)), cents)
