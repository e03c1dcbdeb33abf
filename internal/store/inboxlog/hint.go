package inboxlog

func (r *recovery) replayHint(s *segment) (bool, error) { return false, nil }
