import unittest

from fairshare import split_by_weight, split_evenly


class SplitTest(unittest.TestCase):
    def test_a_bill_that_comes_out_even(self):
        self.assertEqual(split_evenly(9000, 3), [3000, 3000, 3000])

    def test_shares_add_up_to_the_bill(self):
        for cents in (100, 101, 9999):
            for people in (1, 2, 3, 7):
                with self.subTest(cents=cents, people=people):
                    self.assertEqual(sum(split_evenly(cents, people)), cents)

    def test_the_first_people_pay_the_cents_that_are_left(self):
        self.assertEqual(split_evenly(100, 3), [34, 33, 33])

    def test_weights(self):
        self.assertEqual(split_by_weight(1000, [1, 3]), [250, 750])

    def test_who_has_no_weight_pays_nothing(self):
        self.assertEqual(split_by_weight(101, [1, 0, 1]), [51, 0, 50])

    def test_weights_that_make_no_sense_are_refused(self):
        for weights in ([0, 0], [2, -1]):
            with self.assertRaises(ValueError):
                split_by_weight(100, weights)


if __name__ == "__main__":
    unittest.main()
