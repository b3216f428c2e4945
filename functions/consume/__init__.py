"""The consumer: takes tasks from the lanes, sends them to runners, stores the images and announces each outcome."""
