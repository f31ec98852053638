//! Decode, recognise repeats, match, hand to dispatch; holds the acknowledgement until all is settled or parked.
