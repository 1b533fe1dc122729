// Package account finds the user and the groups that a command runs as, in the passwd and group files of the guest:
// passwd(5), group(5). The files belong to whoever is root in the guest, and may hold anything.
package account

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// User is whom a command runs as.
type User struct {
	Name   string // as in passwd, or the number when that has no such user
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary groups; GID is the first of them, so that a set-group-ID program does not leave it
	Home   string   // "/" when passwd has none
	Shell  string   // "/bin/sh" when passwd has none
}

// usualFile is as much as most of these files have, in bytes. Each command has them read, in a process whose garbage is to stay
// small.
const usualFile = 1 << 10

// Limits on what is read of a file.
const (
	maxFile   = 4 << 20
	maxLine   = 64 << 10
	maxGroups = 65536 // NGROUPS_MAX of Linux
)

// Lookup finds the user that spec names: "" for root, else name, uid, name:group or uid:gid. A number that passwd does not
// know stands for itself, with group 0. A named group replaces the supplementary ones. passwd and group may be empty.
func Lookup(spec string, passwd, group io.Reader) (User, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	if hasGroup && (name == "" || groupName == "") {
		return User{}, fmt.Errorf("%q is not a user: write name, uid, name:group or uid:gid", spec)
	}
	buf := make([]byte, usualFile)
	u, err := findUser(name, passwd, buf)
	if err != nil {
		return User{}, err
	}
	if hasGroup {
		u.GID, err = findGroup(groupName, group, buf)
		u.Groups = []uint32{u.GID}
		return u, err
	}
	u.Groups = []uint32{u.GID}
	err = eachLine(group, buf, 4, func(f [][]byte) bool {
		gid, ok := number(string(f[2]))
		if ok && hasMember(f[3], u.Name) && !slices.Contains(u.Groups, gid) {
			u.Groups = append(u.Groups, gid)
		}
		return len(u.Groups) < maxGroups
	})
	if err != nil {
		return User{}, fmt.Errorf("read the group file: %w", err)
	}
	return u, nil
}

func findUser(name string, passwd io.Reader, buf []byte) (User, error) {
	uid, numeric := number(name)
	if name == "" {
		uid, numeric = 0, true
	}
	var u User
	found := false
	err := eachLine(passwd, buf, 7, func(f [][]byte) bool {
		id, ok := number(string(f[2]))
		gid, okGroup := number(string(f[3]))
		if !ok || !okGroup || string(f[0]) != name && !(numeric && id == uid) {
			return true
		}
		u, found = User{Name: string(f[0]), UID: id, GID: gid, Home: string(f[5]), Shell: string(f[6])}, true
		return false
	})
	switch {
	case err != nil:
		return User{}, fmt.Errorf("read the passwd file: %w", err)
	case !found && !numeric:
		return User{}, fmt.Errorf("there is no user %q in the guest", name)
	case !found && uid == 0:
		u = User{Name: "root", Home: "/root"}
	case !found:
		u = User{Name: name, UID: uid}
	}
	if !strings.HasPrefix(u.Home, "/") {
		u.Home = "/"
	}
	if !strings.HasPrefix(u.Shell, "/") {
		u.Shell = "/bin/sh"
	}
	return u, nil
}

func findGroup(name string, group io.Reader, buf []byte) (uint32, error) {
	gid, numeric := number(name)
	found := false
	err := eachLine(group, buf, 3, func(f [][]byte) bool {
		id, ok := number(string(f[2]))
		if ok && string(f[0]) == name {
			gid, found = id, true
		}
		return !found
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the group file: %w", err)
	case !found && !numeric:
		return 0, fmt.Errorf("there is no group %q in the guest", name)
	}
	return gid, nil
}

// hasMember reports whether a group's list of members, which commas separate, has name.
func hasMember(list []byte, name string) bool {
	for member := range bytes.SplitSeq(list, []byte{','}) {
		if string(member) == name {
			return true
		}
	}
	return false
}

// number reads a uid or gid: not the greatest, which stands for none in setuid(2) and chown(2).
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 || s[0] == '+' {
		return 0, false
	}
	return uint32(n), true
}

// eachLine calls f with the fields of each line that has at least n of them, until f returns false. f may not keep what it gets.
// buf is read into.
func eachLine(r io.Reader, buf []byte, n int, f func([][]byte) bool) error {
	s := bufio.NewScanner(io.LimitReader(r, maxFile))
	s.Buffer(buf, maxLine)
	fields := make([][]byte, 0, 8) // passwd has 7
	for s.Scan() {
		fields = slices.AppendSeq(fields[:0], bytes.SplitSeq(s.Bytes(), []byte{':'}))
		if len(fields) >= n && len(fields[0]) > 0 && !f(fields) {
			return nil
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("it has a line of more than %d bytes", maxLine)
	}
	return s.Err()
}
