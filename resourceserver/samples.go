package resourceserver

import (
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// quarter is somewhere in Spain where people live.
type quarter struct {
	city, name string
	x, y       float64 // its middle
	spread     float64 // degrees around it
	euros      int     // a square metre
}

var quarters = []quarter{
	{"Madrid", "Sol", -3.7038, 40.4168, .006, 6200},
	{"Madrid", "Malasaña", -3.7046, 40.4264, .005, 6100},
	{"Madrid", "Chamberí", -3.7034, 40.4360, .008, 6600},
	{"Madrid", "Salamanca", -3.6800, 40.4290, .008, 8300},
	{"Madrid", "Lavapiés", -3.7010, 40.4085, .005, 5000},
	{"Madrid", "Carabanchel", -3.7390, 40.3840, .012, 2900},
	{"Madrid", "Vallecas", -3.6520, 40.3800, .012, 2600},
	{"Barcelona", "Eixample", 2.1620, 41.3910, .010, 5300},
	{"Barcelona", "Gràcia", 2.1570, 41.4030, .007, 4900},
	{"Barcelona", "Poblenou", 2.2000, 41.4010, .008, 4800},
	{"Barcelona", "Sants", 2.1360, 41.3760, .008, 4000},
	{"València", "Ruzafa", -0.3730, 39.4620, .006, 3100},
	{"València", "El Cabanyal", -0.3310, 39.4700, .006, 2700},
	{"Sevilla", "Triana", -6.0050, 37.3830, .006, 2900},
	{"Sevilla", "Nervión", -5.9700, 37.3830, .008, 2900},
	{"Málaga", "Centro histórico", -4.4210, 36.7210, .006, 3900},
	{"Zaragoza", "Delicias", -0.9080, 41.6500, .008, 1700},
	{"Bilbao", "Casco Viejo", -2.9235, 43.2590, .004, 3700},
	{"Donostia", "Gros", -1.9740, 43.3240, .005, 6000},
	{"A Coruña", "Monte Alto", -8.4090, 43.3790, .005, 2600},
	{"Vigo", "Casco Vello", -8.7270, 42.2390, .004, 2300},
	{"Oviedo", "El Antiguo", -5.8450, 43.3620, .005, 1900},
	{"Santander", "El Sardinero", -3.7870, 43.4730, .008, 3000},
	{"Pamplona", "Ensanche", -1.6400, 42.8120, .006, 2900},
	{"Valladolid", "Parquesol", -4.7620, 41.6360, .008, 1800},
	{"Salamanca", "Centro", -5.6640, 40.9650, .005, 2100},
	{"Granada", "Albaicín", -3.5930, 37.1810, .004, 2500},
	{"Córdoba", "Judería", -4.7820, 37.8790, .004, 1900},
	{"Cádiz", "La Viña", -6.3010, 36.5300, .003, 2700},
	{"Murcia", "El Carmen", -1.1300, 37.9770, .006, 1400},
	{"Alacant", "Sant Joan", -0.4370, 38.4010, .008, 2400},
	{"Palma", "Santa Catalina", 2.6350, 39.5720, .004, 5200},
	{"Las Palmas de Gran Canaria", "Vegueta", -15.4150, 28.1000, .004, 2500},
	{"Santa Cruz de Tenerife", "Centro", -16.2510, 28.4680, .006, 1900},
	{"Badajoz", "San Roque", -6.9500, 38.8760, .006, 1200},
	{"Logroño", "Casco Antiguo", -2.4460, 42.4670, .004, 1600},
	{"Toledo", "Casco Histórico", -4.0245, 39.8580, .004, 1700},
	{"Girona", "Barri Vell", 2.8250, 41.9860, .003, 2600}, //nolint:misspell // Catalan
	{"Burgos", "Gamonal", -3.6660, 42.3520, .008, 1800},
	{"León", "Húmedo", -5.5670, 42.5980, .003, 1500},
}

// kind is a sort of property. The meaning of the codes is this file's own.
type kind struct {
	name, article string
	code          int32
	least, most   int // square metres
	rooms         bool
}

var kinds = []kind{
	{"Piso", "un piso", 1, 45, 140, true},
	{"Ático", "un ático", 2, 40, 120, true},
	{"Estudio", "un estudio", 3, 25, 42, false},
	{"Dúplex", "un dúplex", 4, 80, 180, true},
	{"Chalé", "un chalé", 5, 120, 380, true},
	{"Local", "un local", 6, 30, 400, false},
	{"Garaje", "una plaza de garaje", 7, 10, 18, false},
}

var streets = []string{
	"calle Mayor", "calle del Carmen", "calle de la Luna", "avenida de la Constitución", "calle de San Juan", "plaza de España",
	"calle Real", "paseo de la Estación", "calle de los Reyes", "calle del Pez", "avenida de la Paz", "calle Cervantes",
	"calle del Sol", "ronda de Levante", "calle de la Iglesia", "calle Nueva", "travesía del Molino", "calle de las Huertas",
}

var details = []string{
	"Muy luminoso, con balcón a la calle.", "Exterior, con vistas despejadas.", "Reformado hace dos años; cocina amueblada.",
	"Finca clásica rehabilitada, con ascensor.", "Calefacción central y aire acondicionado.", "Suelos de tarima y techos altos.",
	"A cinco minutos andando del metro.", "Junto al mercado y a un colegio público.", "Cocina independiente con tendedero.",
	"Se admiten mascotas.", "Gastos de comunidad incluidos.", "Edificio con portero y trastero.", "Para entrar a vivir.",
	"Necesita reforma; muchas posibilidades.", "Orientación sur, sol todo el día.", "Terraza de 12 m² con toldo.",
	"Zona tranquila, bien comunicada en autobús.", "Certificado energético en trámite.",
}

// Samples makes up n inmuebles, the same ones for the same seed: real quarters
// and believable texts, for demonstrations and for measuring.
func Samples(seed uint64, n int, owner string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for i := range n {
			if !yield(Row{makeUp(seed, uint64(i), owner), allGiven}, nil) {
				return
			}
		}
	}
}

// madeUpFrom is when the first made-up listing was published.
var madeUpFrom = time.Date(2024, time.January, 1, 8, 0, 0, 0, time.UTC)

// makeUp makes the i-th inmueble of a seed, whatever came before.
func makeUp(seed, i uint64, owner string) Inmueble {
	r := rand.New(rand.NewPCG(seed, i)) //nolint:gosec // the same numbers are wanted each time
	p, k := &quarters[r.IntN(len(quarters))], &kinds[min(r.IntN(len(kinds)), r.IntN(len(kinds)))]
	size := k.least + r.IntN(k.most-k.least+1)
	forRent := r.IntN(5) < 2
	in := madeUpFrom.Add(time.Duration(r.IntN(730*24*60)) * time.Minute)
	listed := in.AddDate(0, 0, r.IntN(45))
	_, week := listed.AddDate(0, 0, r.IntN(120)).ISOWeek()

	title := fmt.Sprintf("%s en %s, %s", k.name, p.name, p.city)
	facts := fmt.Sprintf("%d m²", size)
	if k.rooms {
		rooms := max(1, min(6, size/32+r.IntN(2)))
		title = fmt.Sprintf("%s de %d habitaciones en %s, %s", k.name, rooms, p.name, p.city)
		if rooms == 1 {
			title = fmt.Sprintf("%s de una habitación en %s, %s", k.name, p.name, p.city)
		}
		facts = fmt.Sprintf("%d m², %d baño", size, 1+rooms/3)
		if rooms >= 3 {
			facts += "s"
		}
	}
	price := size * p.euros * (80 + r.IntN(45)) / 100 / 1000 * 1000
	verb, cost := "Se vende", grouped(max(price, 9000))+" €"
	if forRent {
		verb, cost = "Se alquila", grouped(max(price*45/12_000/5*5, 60))+" € al mes"
	}
	text := []string{fmt.Sprintf("%s %s en %s, %d (%s): %s.", verb, k.article, streets[r.IntN(len(streets))], 1+r.IntN(140), p.name, facts)}
	for _, j := range r.Perm(len(details))[:2+r.IntN(3)] {
		text = append(text, details[j])
	}
	text = append(text, cost+".")

	m := Inmueble{
		ID:      hex.EncodeToString(madeUpID(seed, i)),
		OtherID: fmt.Sprintf("DEMO%06d", i), BuildStatus: int32(1 + r.IntN(4)), IsActive: r.IntN(6) > 0, //nolint:gosec // small
		StartMonth: int32(listed.Month()), DateDiff: int32(listed.Sub(in).Hours() / 24), //nolint:gosec // small
		Title: title, Description: strings.Join(text, " "),
		DateIn: in.Format(time.DateOnly), Date: listed.Format(time.DateOnly),
		PropertyType: k.code, EndWeek: int32(week), TypologyType: int32(1 + r.IntN(5)), ListingType: 1, //nolint:gosec // small
		XCoord: around(r, p.x, p.spread), YCoord: around(r, p.y, p.spread*.75),
		Owner: owner, CreatedAt: stamp(in), UpdatedAt: stamp(in),
	}
	if forRent {
		m.ListingType = 2
	}
	if r.IntN(5) > 0 {
		made := int32(1 + r.IntN(6)) //nolint:gosec // small
		m.ConstructionType = &made
	}
	if r.IntN(8) > 0 {
		boundary := int32(1000)
		for j := range quarters {
			if &quarters[j] == p {
				boundary += int32(j)
			}
		}
		m.BoundaryID = &boundary
	}
	return m
}

// madeUpID is recognisable, and orders the inmuebles of a seed.
func madeUpID(seed, i uint64) []byte {
	id := []byte{0xde, 0x30, byte(seed >> 8), byte(seed)} //nolint:gosec // the byte alone is wanted
	for shift := 56; shift >= 0; shift -= 8 {
		id = append(id, byte(i>>shift)) //nolint:gosec // the byte alone is wanted
	}
	return id
}

// around is a place near the middle, to some ten centimetres.
func around(r *rand.Rand, middle, spread float64) float64 {
	return math.Round((middle+r.NormFloat64()*spread/2)*1e6) / 1e6
}

// grouped writes a whole number with dots between thousands.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "." + s[i:]
	}
	return s
}
