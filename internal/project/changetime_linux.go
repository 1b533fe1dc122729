package project

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when a file, or what is known of it, was changed last: ctime of stat(2).
func changeTime(info fs.FileInfo) time.Time {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Now() // never old enough to be trusted
	}
	return time.Unix(st.Ctim.Sec, st.Ctim.Nsec)
}
