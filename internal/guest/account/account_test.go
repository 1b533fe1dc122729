package account

import (
	"reflect"
	"strings"
	"testing"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nx:x:none:0:::\n" +
		"node:x:1000:1001:Node:/home/node:/bin/zsh\nbare:x:7:7:::\n4000:x:5:5::/five:/bin/sh\n"
	group = "root:x:0:\nnode:x:1001:\ndocker:x:999:other,node\nwheel:x:10:root,node\nwheel2:x:10:node\nbad:x:z:node\nshort:x\n"
)

func TestLookup(t *testing.T) {
	for spec, want := range map[string]User{
		"":             {Name: "root", Home: "/root", Shell: "/bin/bash", Groups: []uint32{0, 10}},
		"0":            {Name: "root", Home: "/root", Shell: "/bin/bash", Groups: []uint32{0, 10}},
		"node":         {Name: "node", UID: 1000, GID: 1001, Home: "/home/node", Shell: "/bin/zsh", Groups: []uint32{1001, 999, 10}},
		"1000":         {Name: "node", UID: 1000, GID: 1001, Home: "/home/node", Shell: "/bin/zsh", Groups: []uint32{1001, 999, 10}},
		"node:wheel":   {Name: "node", UID: 1000, GID: 10, Home: "/home/node", Shell: "/bin/zsh", Groups: []uint32{10}},
		"1000:4":       {Name: "node", UID: 1000, GID: 4, Home: "/home/node", Shell: "/bin/zsh", Groups: []uint32{4}},
		"bare":         {Name: "bare", UID: 7, GID: 7, Home: "/", Shell: "/bin/sh", Groups: []uint32{7}},
		"1234":         {Name: "1234", UID: 1234, Home: "/", Shell: "/bin/sh", Groups: []uint32{0}},
		"1234:node":    {Name: "1234", UID: 1234, GID: 1001, Home: "/", Shell: "/bin/sh", Groups: []uint32{1001}},
		"4294967294:1": {Name: "4294967294", UID: 4294967294, GID: 1, Home: "/", Shell: "/bin/sh", Groups: []uint32{1}},
	} {
		got, err := Lookup(spec, strings.NewReader(passwd), strings.NewReader(group))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"nobody", "-1", "+0", "4294967295", "node:nogroup", ":", "node:", ":0", "root:-1"} {
		if got, err := Lookup(spec, strings.NewReader(passwd), strings.NewReader(group)); err == nil {
			t.Errorf("%q: %+v, want an error", spec, got)
		}
	}
}

func TestLookupWithoutFiles(t *testing.T) {
	got, err := Lookup("", strings.NewReader(""), strings.NewReader(""))
	if err != nil || got.UID != 0 || got.Home != "/root" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Lookup("", strings.NewReader(strings.Repeat("x", 1<<20)), strings.NewReader("")); err == nil {
		t.Error("a line without end is accepted")
	}
}

func FuzzLookup(f *testing.F) {
	f.Add("node", passwd, group)
	f.Add("0:0", "::::::", ":::")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		u, err := Lookup(spec, strings.NewReader(passwd), strings.NewReader(group))
		if err != nil {
			return
		}
		if u.Home[0] != '/' || u.Shell[0] != '/' || u.UID == 1<<32-1 || u.GID == 1<<32-1 || u.Name == "" {
			t.Errorf("%q gives %+v", spec, u)
		}
	})
}
