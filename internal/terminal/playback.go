package terminal

import "golang.org/x/sys/unix"

// makePlayback has the terminal take output as it is and not show what is typed. Signals by keys stay.
func makePlayback(fd int) error {
	t, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON
	return unix.IoctlSetTermios(fd, setTermios, t)
}
