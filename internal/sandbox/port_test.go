package sandbox

import "testing"

func TestParsePort(t *testing.T) {
	tcp := func(ip string, host, guest int) Port { return Port{ip, host, Target{GuestPort: guest}} }
	for _, tc := range []struct {
		in    string
		same  bool
		want  Port
		wrong bool
	}{
		{in: "8080:80", want: tcp("127.0.0.1", 8080, 80)},
		{in: "8080:80/tcp", want: tcp("127.0.0.1", 8080, 80)},
		{in: "0.0.0.0:8080:80", want: tcp("0.0.0.0", 8080, 80)},
		{in: "[::1]:8080:80", want: tcp("::1", 8080, 80)},
		{in: "0:80", want: tcp("127.0.0.1", 0, 80)},
		{in: ":80", same: true, want: tcp("127.0.0.1", 0, 80)},
		{in: "127.0.0.2::80", want: tcp("127.0.0.2", 0, 80)},
		{in: "80", want: tcp("127.0.0.1", 0, 80)},
		{in: "80", same: true, want: tcp("127.0.0.1", 80, 80)},
		{in: "8080:/run/a:b.sock", want: Port{"127.0.0.1", 8080, Target{GuestSocket: "/run/a:b.sock"}}},
		{in: "[::1]:1:/s", want: Port{"::1", 1, Target{GuestSocket: "/s"}}},
		{in: "/run/app.sock", same: true, want: Port{"127.0.0.1", 0, Target{GuestSocket: "/run/app.sock"}}},
		{in: "", wrong: true},
		{in: ":", wrong: true},
		{in: "8080:0", wrong: true},
		{in: "8080:65536", wrong: true},
		{in: "65536:80", wrong: true},
		{in: "-1:80", wrong: true},
		{in: "+1:80", wrong: true},
		{in: "8080:80/udp", wrong: true},
		{in: "::1:8080:80", wrong: true},
		{in: "localhost:8080:80", wrong: true},
		{in: ":8080:80", wrong: true},
		{in: "8080:run/app.sock", wrong: true},
	} {
		got, err := ParsePort(tc.in, tc.same)
		switch {
		case tc.wrong && KindOf(err) != Invalid:
			t.Errorf("%q is %v, %v; want an error", tc.in, got, err)
		case !tc.wrong && (err != nil || got != tc.want):
			t.Errorf("%q is %+v, %v; want %+v", tc.in, got, err, tc.want)
		}
	}
}
